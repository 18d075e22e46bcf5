"""Maps of one group of windows; the automatic layer is the same for all groups."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from medcam.engine.request import Request
from medcam.engine.run import run
from medcam.engine.windows.ensemble import EnsembleMember
from medcam.engine.windows.prediction import SamplePlace, check_stitchable, cut
from medcam.engine.windows.score_gradient import ScoreGradient
from medcam.maps import AttentionMap, MapKey
from medcam.methods.blank import BlankReason


@dataclass(eq=False)
class Runner:
    """Explains groups of windows; the automatic layer is chosen at the first group.

    Attributes:
        volume: The padded image.
        gradient: The score's gradient, with which each window's backward pass starts.
        layers: The layers that were recorded; empty before the first group has run.
        skipped: Layers without a map, with the reason.
        details: What is known of the automatic layer.
        agreements: For each method's title and layer, how well maps of windows agree with those of
            another method.
        blanks: For each method's title and layer, why maps of windows were zero.
    """

    volume: Float[Tensor, "batch channels *padded"]
    gradient: ScoreGradient
    layers: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    agreements: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    blanks: dict[tuple[str, str | None], Counter[BlankReason]] = field(default_factory=dict)

    def maps(
        self,
        member: EnsembleMember,
        places: Sequence[SamplePlace],
        weights: Sequence[Tensor],
        request: Request,
    ) -> dict[MapKey, AttentionMap]:
        """Return the windows' maps ``[windows, targets, *roi]``, mirrored back.

        Args:
            member: The network and its mirroring.
            places: The windows.
            weights: The weight of each voxel of each window in the score, ``[*roi]``.
            request: The methods; with ``shape=None`` the maps are not mirrored back.
        """
        inputs = cut(self.volume, places, member)
        space = tuple(inputs.shape[2:])

        def target(logits: Tensor) -> Tensor:
            check_stitchable(logits, space)
            return self.gradient.score(logits, places, weights, member.flips)

        automatic = request.chooses_layer
        layer = self.layers[0] if automatic and self.layers else request.layer
        request = dataclasses.replace(
            request, target=target, layer=layer, window_target=self.gradient.target,
            of_output=self.gradient.of_output,
        )  # fmt: skip
        result = run(request, member.model, member.model, (inputs,), {})
        chosen_now = automatic and not self.layers and result.names_run
        if chosen_now:
            self.layers, self.details = result.layers, result.details
        elif not automatic:  # a pass with shared weights records one layer at a time
            self.layers = tuple(dict.fromkeys((*self.layers, *result.layers)))
        self.skipped.update(result.skipped)
        for (method, name), values in result.agreements.items():
            known = values[values.isfinite()].tolist()
            self.agreements.setdefault((method.title, name), []).extend(known)
        for (reason, title, key), flags in result.blanks.items():
            self.note_blank(title, None if key is None else key[0], reason, int(flags.all(1).sum()))
        if request.shape is None:
            return dict(result.maps)
        return {key: _mirrored_back(item, member) for key, item in result.maps.items()}

    def note_blank(self, title: str, layer: str | None, reason: BlankReason, count: int) -> None:
        """Record why maps of windows are zero.

        Args:
            title: The title of the method.
            layer: The layer.
            reason: The reason.
            count: The number of windows.
        """
        if count:
            self.blanks.setdefault((title, layer), Counter())[reason] += count


def _mirrored_back(item: AttentionMap, member: EnsembleMember) -> AttentionMap:
    """Return a map of mirrored windows on the grid of the windows."""
    if not member.flips:
        return item
    axes = [axis + 2 for axis in member.flips]
    channels = item.channels
    if channels is not None:
        channels = channels.flip([axis + 1 for axis in axes])
    return dataclasses.replace(item, values=item.values.flip(axes), channels=channels)
