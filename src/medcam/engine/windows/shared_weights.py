"""Maps by one set of channel weights for all windows of a volume.

A first pass sums statistics over the windows, from which the weights are computed; a second pass
makes the maps. Each method defines its statistics and its weights (`medcam.methods`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.engine.windows.ensemble import EnsembleMember
from medcam.engine.windows.kept import project, projected
from medcam.engine.windows.plan import StitchingPlan, Totals, add_windows, mean_over_windows
from medcam.engine.windows.prediction import SamplePlace, groups
from medcam.maps import AttentionMap
from medcam.methods import Method, SharedWeights


def stitch_by_shared_weights(
    plan: StitchingPlan, name: str, title: str, shared: SharedWeights
) -> Totals:
    """Return the maps by one set of channel weights for all windows of a member.

    Args:
        plan: The plan.
        name: The method's key in the result.
        title: The method's title, for warnings.
        shared: The method's statistics and how the weights follow from them.
    """
    window_weights = plan.windows.weights
    totals: Totals = {}
    for number, member in enumerate(plan.members()):
        for layer, sums in _statistics(plan, member, title, shared).items():
            maps = _MapsOfLayer(plan, number, member, layer, *shared.weights(sums))
            for group in groups(plan.places, plan.batch_size):
                values = maps.of_group(group)
                add_windows(totals, (name, layer), plan, group, values, window_weights)
                plan.tick(len(group))
    return mean_over_windows(plan, totals)


@dataclass(eq=False)
class _MapsOfLayer:
    """Maps of one layer of one member, by one set of channel weights.

    The first group of windows is run. If the activations that the prediction pass kept give the
    same map, they serve for all other groups.

    Attributes:
        plan: The plan.
        number: The number of the member.
        member: The member.
        layer: The layer.
        weights: The channel weights, ``[batch, targets, channels]``.
        offset: What is subtracted from the activations, ``[batch, channels]``.
        first: A map of the first group, if kept activations gave the same.
        is_first: Whether no group was run yet.
    """

    plan: StitchingPlan
    number: int
    member: EnsembleMember
    layer: str
    weights: Tensor
    offset: Tensor
    first: AttentionMap | None = None
    is_first: bool = True

    def of_group(self, group: Sequence[SamplePlace]) -> Float[Tensor, "windows targets *roi"]:
        """Return the maps of a group of windows."""
        kept = self._of_kept(group) if self.first is not None else None
        return self._of_run(group) if kept is None else kept

    def _of_run(self, group: Sequence[SamplePlace]) -> Tensor:
        """Return the maps of a group of windows from a forward pass."""
        plan, samples = self.plan, [sample for sample, _ in group]
        projections = {
            f"{target}": Method(
                "projection", partial(project, column[samples], self.offset[samples]), "Projection"
            )
            for target, column in enumerate(self.weights.unbind(1))
        }
        maps = plan.runner.maps(
            self.member, group, [plan.windows.weights] * len(group),
            plan.request_for(projections, layer=self.layer),
        )  # fmt: skip
        items = list(maps.values())
        values = torch.stack([item.values[:, 0] for item in items], 1)
        if self.is_first:
            self.is_first, self.first = False, items[0]
            kept = self._of_kept(group)
            if kept is None or kept.shape != values.shape or not _is_same(kept, values):
                self.first = None
        return values

    def _of_kept(self, group: Sequence[SamplePlace]) -> Tensor | None:
        """Return the maps of a group of windows from kept activations; None if there are none."""
        kept = self.plan.kept
        activations = None if kept is None else kept.of(self.number, group, self.layer)
        if activations is None or self.first is None or activations.shape[1] != len(self.offset[0]):
            return None
        samples = [sample for sample, _ in group]
        return projected(
            activations, self.weights[samples].unbind(1), self.offset[samples], self.first,
            tuple(self.plan.windows.weights.shape), self.member.flips,
        )  # fmt: skip


def _is_same(first: Tensor, second: Tensor) -> bool:
    """Return whether two maps are equal up to rounding."""
    size = float(second.abs().max())
    return bool(((first - second).abs() <= 1e-5 * size).all())


def count_windows(plan: StitchingPlan, shared: SharedWeights) -> int:
    """Return the number of windows that one member explains in both passes."""
    count = len(plan.places)
    return count + (len(plan.touched_places) if shared.of_target else count)


def _statistics(
    plan: StitchingPlan, member: EnsembleMember, title: str, shared: SharedWeights
) -> dict[str, Float[Tensor, "batch targets numbers"]]:
    """Return the method's statistics summed over the windows, by layer."""
    window_weights, shares = plan.windows.weights, plan.shares()
    method = Method("statistics", shared.statistics, "Statistics")
    if method.evidence == {"gradients"}:  # then they are the weights, and windows say why one is 0
        method = dataclasses.replace(method, title=title, weights=shared.statistics)
    request = dataclasses.replace(plan.request_for({"statistics": method}), shape=None)
    totals: dict[str, Tensor] = {}
    for group in groups(plan.touched_places if shared.of_target else plan.places, plan.batch_size):
        score_weights = [
            window_weights * shares[place] if shared.of_target else window_weights
            for _, place in group
        ]
        for key, item in plan.runner.maps(member, group, score_weights, request).items():
            layer = str(key[1]) if isinstance(key, tuple) else str(key)
            values = item.values.double().cpu()
            if layer not in totals:
                totals[layer] = values.new_zeros(len(plan.runner.volume), *values.shape[1:])
            for (sample, _), part in zip(group, values, strict=True):
                totals[layer][sample] += part
        plan.tick(len(group))
    return totals
