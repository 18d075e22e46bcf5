"""Passes over the windows: the stitched prediction, and the windows' maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from medcam import outputs
from medcam.attention import AttentionMap, MapKey
from medcam.errors import InputError
from medcam.explain import run
from medcam.outputs import Selector
from medcam.request import Request
from medcam.volume.members import Member
from medcam.volume.seeds import Seeds
from medcam.volume.windows import Place, Windows

Where = tuple[int, Place]
"""A window: the sample, and the place on the padded grid."""

Tick = Callable[[int], None]
"""Told how many windows were done."""


def batches(where: Sequence[Where], size: int) -> Iterator[list[Where]]:
    """The windows in groups."""
    rest = iter(where)
    while group := list(islice(rest, size)):
        yield group


def everywhere(batch: int, windows: Windows) -> list[Where]:
    """All windows of all samples."""
    return [(sample, place) for sample in range(batch) for place in windows.places]


def cut(volume: Tensor, where: Sequence[Where], member: Member) -> Tensor:
    """The windows' input ``[windows, channels, *roi]``, mirrored, on the network's device."""
    parts = torch.stack([volume[(sample, slice(None), *place)] for sample, place in where])
    parts = parts.to(device_of(member, volume))
    return parts.flip([axis + 2 for axis in member.flips]) if member.flips else parts


def device_of(member: Member, volume: Tensor) -> torch.device:
    """Where a network is."""
    own = next(member.model.parameters(), None)
    return volume.device if own is None else own.device


def unflip(values: Tensor, member: Member) -> Tensor:
    """A window's result ``[windows, any, *roi]``, mirrored back."""
    return values.flip([axis + 2 for axis in member.flips]) if member.flips else values


def predict(
    members: Iterable[Member],
    volume: Float[Tensor, "batch channels *padded"],
    windows: Windows,
    *,
    output: Selector,
    batch_size: int,
    device: torch.device,
    tick: Tick,
) -> Float[Tensor, "batch classes *space"]:
    """The stitched prediction, the mean over the members, cropped to the image."""
    total, count = None, 0
    weights = windows.weights.to(device)
    for member in members:
        count += 1
        for group in batches(everywhere(len(volume), windows), batch_size):
            with torch.no_grad():
                given = cut(volume, group, member)
                answer = member.model(given)
            space = tuple(given.shape[2:])
            logits = outputs.select(answer, output, batch=len(group), space=space)
            check_output(logits, space)
            logits = unflip(logits, member).to(device)
            if total is None:
                wide = torch.promote_types(logits.dtype, weights.dtype)
                total = torch.zeros(
                    (len(volume), logits.shape[1], *windows.shape), dtype=wide, device=device
                )
            for (sample, place), part in zip(group, logits, strict=True):
                total[(sample, slice(None), *place)] += part.to(total.dtype) * weights
            tick(len(group))
    if total is None:
        raise InputError("No network was given.")
    total /= windows.sums(device=device)
    return windows.crop(total / count if count > 1 else total)


def check_output(logits: Tensor, space: tuple[int, ...]) -> None:
    """An error for answers that cannot be stitched."""
    if tuple(logits.shape[2:]) == space:
        return
    shape = list(logits.shape)
    remedy = (
        "its answers have no place in the volume, so there is nothing to stitch. Explain the whole "
        "volume at once, medcam.explain, or one crop of it"
        if logits.ndim == 2
        else "stitching needs one logit per voxel. Choose the full-size tensor with output=, or "
        "upsample the logits in the model"
    )
    raise InputError(f"For a window of {list(space)} the model answers {shape}: {remedy}.")


@dataclasses.dataclass(eq=False)
class Runner:
    """Explains windows, one group at a time; the automatic layer is chosen at the first.

    Attributes:
        volume: The padded image.
        seeds: What each window's backward pass starts with.
        layer: The layer that "auto" took.
        skipped: Layers of which no map could be made, with the reason.
    """

    volume: Float[Tensor, "batch channels *padded"]
    seeds: Seeds
    layer: str | tuple[str, ...] | None = None
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)

    def maps(
        self,
        member: Member,
        where: Sequence[Where],
        weights: Sequence[Tensor],
        request: Request,
    ) -> dict[MapKey, AttentionMap]:
        """The windows' maps ``[windows, targets, *roi]``, mirrored back.

        Args:
            member: The network.
            where: The windows.
            weights: How much each voxel of each window counts in the score.
            request: The methods; without a shape, what they return is left as it is.
        """
        given = cut(self.volume, where, member)
        space = tuple(given.shape[2:])

        def target(logits: Tensor) -> Tensor:
            check_output(logits, space)
            return self.seeds.score(logits, where, weights, member.flips)

        automatic = request.layer in ("auto", None) and any(m.of_layer for m in request.methods)
        layer = self.layer if automatic and self.layer is not None else request.layer
        asked = dataclasses.replace(request, target=target, layer=layer)
        found = run(asked, member.model, member.model, (given,), {})
        if automatic and self.layer is None and found._named:
            self.layer = found.layer
        if not automatic and found.layer is not None:
            self.layer = found.layer
        self.skipped.update(found.skipped)
        if request.shape is None:
            return dict(found.unchecked)
        return {key: _back(item, member) for key, item in found.unchecked.items()}


def _back(item: AttentionMap, member: Member) -> AttentionMap:
    if not member.flips:
        return item
    axes = [axis + 2 for axis in member.flips]
    channels = item.channels
    if channels is not None:
        channels = channels.flip([axis + 1 for axis in axes])
    return dataclasses.replace(item, values=item.values.flip(axes), channels=channels)
