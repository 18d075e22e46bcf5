"""Maps by one set of channel weights for all windows of a volume.

A first pass sums the statistics that the weights are computed from over the windows; a second
makes the maps. Which statistics, and which weights, is the method's own (`medcam.methods`).
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.engine.windows.ensemble import EnsembleMember
from medcam.engine.windows.plan import StitchingPlan, Totals, add_windows, mean_over_windows
from medcam.engine.windows.prediction import groups
from medcam.methods import Method, SharedWeights


def stitch_by_shared_weights(plan: StitchingPlan, name: str, shared: SharedWeights) -> Totals:
    """Return the maps by one set of channel weights for all windows of a member.

    Args:
        plan: The plan.
        name: The method's key in the result.
        shared: How the weights are found.
    """
    own_weights = plan.windows.weights
    totals: Totals = {}
    for member in plan.members():
        for layer, sums in _statistics(plan, member, shared).items():
            weights, offset = shared.weights(sums)
            for group in groups(plan.everywhere, plan.batch_size):
                samples = [sample for sample, _ in group]
                projections = {
                    f"{target}": Method(
                        "projection", partial(_project, column[samples], offset[samples]), name
                    )
                    for target, column in enumerate(weights.unbind(1))
                }
                maps = plan.runner.maps(
                    member, group, [own_weights] * len(group),
                    plan.request_for(projections, layer=layer),
                )  # fmt: skip
                values = torch.stack([item.values[:, 0] for item in maps.values()], 1)
                add_windows(totals, (name, layer), plan, group, values, own_weights)
                plan.tick(len(group))
    return mean_over_windows(plan, totals)


def count_passes(plan: StitchingPlan, shared: SharedWeights) -> int:
    """Return how many windows one member explains for such a map."""
    everywhere = len(plan.everywhere)
    return everywhere + (len(plan.touched) if shared.of_target else everywhere)


def _statistics(
    plan: StitchingPlan, member: EnsembleMember, shared: SharedWeights
) -> dict[str, Float[Tensor, "batch targets numbers"]]:
    """Return the method's statistics summed over the windows, by layer."""
    own, shares = plan.windows.weights, plan.shares()
    method = Method("statistics", shared.statistics, "Statistics")
    request = dataclasses.replace(plan.request_for({"statistics": method}), shape=None)
    totals: dict[str, Tensor] = {}
    for group in groups(plan.touched if shared.of_target else plan.everywhere, plan.batch_size):
        starts = [own * shares[place] if shared.of_target else own for _, place in group]
        for key, item in plan.runner.maps(member, group, starts, request).items():
            layer = str(key[1]) if isinstance(key, tuple) else str(key)
            values = item.values.double().cpu()
            if layer not in totals:
                totals[layer] = values.new_zeros(len(plan.runner.volume), *values.shape[1:])
            for (sample, _), part in zip(group, values, strict=True):
                totals[layer][sample] += part
        plan.tick(len(group))
    return totals


def _project(weights: Tensor, offset: Tensor, activations: Tensor) -> Tensor:
    """Return ``Σ_k w_k (A^k - offset_k)``, ``[windows, *layer]``."""
    rows = activations - offset.to(activations)[(..., *[None] * (activations.ndim - 2))]
    return torch.einsum("bk,bk...->b...", weights.to(activations), rows)
