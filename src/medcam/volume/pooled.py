"""Maps by one set of channel weights for all windows: Eigen-CAM's, and Grad-CAM's on request.

A first pass sums what the weights are made of over the windows; a second makes the maps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.methods import Method
from medcam.methods.eigen_cam import principal_direction
from medcam.methods.grad_cam import grad_cam_weights
from medcam.volume.job import Job, Total, add, share
from medcam.volume.members import Member
from medcam.volume.passes import Where, batches

Weights = dict[str, tuple[Float[Tensor, "batch targets channels"], Float[Tensor, "batch channels"]]]
"""By layer: the channels' weights for each target, and what is taken off the activations."""


def by_pooled_weights(job: Job, method: Method) -> Total:
    """The maps by one set of channel weights for all windows of a member."""
    sums = job.windows.sums()
    total: Total = {}
    for member in job.members():
        weigh = _eigen_weights if method.name == "eigencam" else _grad_weights
        for layer, (weights, centre) in weigh(job, member).items():
            for group in batches(job.everywhere, job.batch_size):
                samples = [sample for sample, _ in group]
                parts = [
                    Method(f"{t}", partial(_project, w[samples], centre[samples]), method.title)
                    for t, w in enumerate(weights.unbind(1))
                ]
                found = job.runner.maps(
                    member, group, [job.windows.weights] * len(group),
                    job.asked(parts, layer=layer),
                )  # fmt: skip
                values = torch.stack([item.values[:, 0] for item in found.values()], 1)
                add(total, (method.name, layer), job, group, values, job.windows.weights)
                job.tick(len(group))
    return {key: values / sums.to(values) / job.count for key, values in total.items()}


def _grad_weights(job: Job, member: Member) -> Weights:
    """Grad-CAM's channel weights: the mean gradient of the whole stitched target."""

    def mean(activations: Tensor, gradients: Tensor) -> Tensor:
        return grad_cam_weights(gradients)

    factor, own = share(job), job.windows.weights
    found = _statistics(job, member, mean, job.touched, lambda place: own * factor[place])
    return {layer: (sums, torch.zeros_like(sums[:, 0])) for layer, sums in found.items()}


def _eigen_weights(job: Job, member: Member) -> Weights:
    """Eigen-CAM's direction: the first principal component of all windows' activations."""

    def moments(activations: Tensor) -> Tensor:
        rows = activations.flatten(2).double()
        gram = rows @ rows.transpose(1, 2)
        count = rows.new_full((len(rows), 1), rows.shape[2])
        return torch.cat([count, rows.sum(2), gram.flatten(1)], 1)

    found = _statistics(job, member, moments, job.everywhere, lambda _: job.windows.weights)
    weights: Weights = {}
    for layer, sums in found.items():
        count, rest = sums[:, 0, :1], sums[:, 0, 1:]
        channels = round((rest.shape[1] + 0.25) ** 0.5 - 0.5)
        mean = rest[:, :channels] / count
        gram = rest[:, channels:].reshape(-1, channels, channels)
        covariance = gram / count[..., None] - mean[:, :, None] * mean[:, None]
        direction = principal_direction(covariance)[:, None]
        weights[layer] = (direction.expand(-1, len(job.runner.seeds), -1), mean)
    return weights


def _statistics(
    job: Job,
    member: Member,
    function: Callable[..., Tensor],
    where: Sequence[Where],
    seed: Callable[..., Tensor],
) -> dict[str, Float[Tensor, "batch targets numbers"]]:
    """A function of the evidence, summed over the windows, by layer."""
    request = dataclasses.replace(
        job.asked([Method("statistics", function, "Statistics")]), shape=None
    )
    total: dict[str, Tensor] = {}
    for group in batches(where, job.batch_size):
        seeds = [seed(place) for _, place in group]
        for key, item in job.runner.maps(member, group, seeds, request).items():
            layer = str(key[1]) if isinstance(key, tuple) else str(key)
            values = item.values.double().cpu()
            if layer not in total:
                total[layer] = values.new_zeros(len(job.runner.volume), *values.shape[1:])
            for (sample, _), part in zip(group, values, strict=True):
                total[layer][sample] += part
        job.tick(len(group))
    return total


def _project(weights: Tensor, centre: Tensor, activations: Tensor) -> Tensor:
    rows = activations - centre.to(activations)[(..., *[None] * (activations.ndim - 2))]
    return torch.einsum("bk,bk...->b...", weights.to(activations), rows)
