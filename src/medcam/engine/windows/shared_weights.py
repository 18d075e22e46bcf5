"""Maps by one set of channel weights for all windows of a volume.

A first pass sums statistics over the windows, from which the weights are computed; a second pass
makes the maps. Each method defines its statistics and its weights (`medcam.methods`).
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
    for member in plan.members():
        for layer, sums in _statistics(plan, member, title, shared).items():
            weights, offset = shared.weights(sums)
            for group in groups(plan.places, plan.batch_size):
                samples = [sample for sample, _ in group]
                projections = {
                    f"{target}": Method(
                        "projection", partial(_project, column[samples], offset[samples]), name
                    )
                    for target, column in enumerate(weights.unbind(1))
                }
                maps = plan.runner.maps(
                    member, group, [window_weights] * len(group),
                    plan.request_for(projections, layer=layer),
                )  # fmt: skip
                values = torch.stack([item.values[:, 0] for item in maps.values()], 1)
                add_windows(totals, (name, layer), plan, group, values, window_weights)
                plan.tick(len(group))
    return mean_over_windows(plan, totals)


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


def _project(weights: Tensor, offset: Tensor, activations: Tensor) -> Tensor:
    """Return ``Σ_k w_k (A^k - offset_k)``, ``[windows, *layer]``."""
    centred = activations - offset.to(activations)[(..., *[None] * (activations.ndim - 2))]
    return torch.einsum("bk,bk...->b...", weights.to(activations), centred)
