"""From the windows' maps to the map of the volume.

*Sums.* Gradients with respect to the image, and HiResCAM: each window's backward pass is seeded
with its share ``w_p`` of the stitched target, and the windows' maps are added up. That equals the
gradient straight through the stitching. Averaging window gradients instead does not.

*Means.* Grad-CAM and its kin: each window weighs its channels by itself, since normalisation layers
scale each window differently. Its map stays signed and in raw units; the volume's map is the mean
with the windows' weights; the last ReLU is applied once, to the whole. A window takes its share of
the target times the number of windows there, as its map is averaged, not added.

*Pooled.* One set of channel weights for all windows: Eigen-CAM, and Grad-CAM on request.

Windows without a voxel that the target depends on contribute zero to sums and means: they are
skipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from medcam._errors import InputError
from medcam.attention import AttentionMap, MapKey
from medcam.layers import LayerLike
from medcam.methods import METHODS, Method
from medcam.methods.eigen_cam import principal_direction
from medcam.request import Request
from medcam.volume.members import Member, Members
from medcam.volume.passes import Runner, Tick, Where, batches, everywhere
from medcam.volume.windows import Windows

Pooling = Literal["window", "volume"]
Total = dict[MapKey, Tensor]
Maps = dict[tuple[str, str | None], AttentionMap]


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that the passes over the windows share.

    Attributes:
        request: What is asked.
        members: The networks and their mirrorings.
        count: How many these are.
        windows: The windows.
        runner: Explains windows.
        batch_size: How many windows run at once.
        device: Where the sums are kept.
        pooling: Whether Grad-CAM weighs channels by "window" or once for the "volume".
        tick: Told how many windows were done.
    """

    request: Request
    members: Members
    count: int
    windows: Windows
    runner: Runner
    batch_size: int
    device: torch.device
    pooling: Pooling = "window"
    tick: Tick = lambda _: None

    @property
    def touched(self) -> list[Where]:
        """The windows that a target depends on."""
        seeds = self.runner.seeds
        return [item for item in self.everywhere if seeds.touch(*item)]

    @property
    def everywhere(self) -> list[Where]:
        """All windows."""
        return everywhere(len(self.runner.volume), self.windows)

    def asked(self, methods: Iterable[Method], layer: LayerLike = None) -> Request:
        """A request for other methods, and maybe another layer."""
        return dataclasses.replace(
            self.request, methods=tuple(methods), several=True, shape="input",
            layer=self.request.layer if layer is None else layer,
        )  # fmt: skip


def passes(job: Job) -> int:
    """How many windows will be explained, for a progress bar."""
    kinds = _kinds(job)
    touched = len(job.touched) * job.count
    whole = len(job.everywhere) * job.count
    eigen = any(method.name == "eigencam" for method in kinds.pooled)
    weighed = any(method.name != "eigencam" for method in kinds.pooled)
    return (
        touched * bool(kinds.summed) + touched * bool(kinds.averaged)
        + (touched + whole) * weighed + 2 * whole * eigen
    )  # fmt: skip


def nothing(job: Job) -> Maps:
    """The maps of a target that depends on no voxel: zero everywhere."""
    layer = job.request.layer if isinstance(job.request.layer, str) else None
    named = None if layer in ("auto", "full") else layer
    seeds, volume = job.runner.seeds, job.windows.crop(job.runner.volume)
    shape = (len(volume), len(seeds), *volume.shape[2:])
    maps: Maps = {}
    for method in job.request.methods:
        channels = None
        if method.of_input:
            channels = torch.zeros(*shape[:2], *volume.shape[1:], device=job.device)
        where = named if method.of_layer else None
        maps[method.name, where] = AttentionMap(
            torch.zeros(shape, device=job.device), method.name, where, seeds.target,
            method.signed, method.positive_part, channels,
        )  # fmt: skip
    return maps


def stitch(job: Job) -> Maps:
    """The maps of the volume, by ``(method, layer)``, on the grid of the image."""
    kinds = _kinds(job)
    total: Total = {}
    if kinds.summed:
        total.update(_added(job, kinds.summed, _share(job)))
    if kinds.averaged:
        total.update(_averaged(job, kinds.averaged))
    for method in kinds.pooled:
        total.update(_pooled(job, method))
    maps: Maps = {}
    for method in job.request.methods:
        maps.update(_finished(job, method, total))
    return maps


# ------------------------------------------------------------------------------ what is needed


@dataclass(frozen=True)
class _Kinds:
    summed: list[Method]
    averaged: list[Method]
    pooled: list[Method]


def _kinds(job: Job) -> _Kinds:
    """Which maps of the windows the methods are made of."""
    summed: dict[str, Method] = {}
    averaged: dict[str, Method] = {}
    pooled: dict[str, Method] = {}
    for asked in job.request.methods:
        method = asked
        if "input_gradients" in method.evidence:
            summed["saliency"] = METHODS["saliency"]
        if "guided_gradients" in method.evidence:
            summed["gbp"] = METHODS["gbp"]
        if method.of_input and method.of_layer:
            if method.name != "ggcam":
                raise InputError(f"{method.title} cannot be stitched from windows.")
            method = METHODS["gcam"]
        elif method.of_input:
            continue
        if method.name in averaged or method.name in pooled:
            continue
        of_volume = method.name == "gcam" and job.pooling == "volume"
        if method.stitched == "sum":
            summed[method.name] = method
        elif method.stitched == "pooled" or of_volume:
            pooled[method.name] = method
        else:
            averaged[method.name] = method if _is_whole(job) else method.signed_form()
    return _Kinds([*summed.values()], [*averaged.values()], [*pooled.values()])


def _is_whole(job: Job) -> bool:
    """Whether one window of one network covers everything: nothing is added up."""
    return len(job.windows) == 1 and job.count == 1


# ------------------------------------------------------------------------------------ the rules


def _share(job: Job) -> Tensor:
    """The factor from a window's weight to its share of the stitched prediction."""
    return 1 / job.windows.sums()


def _added(
    job: Job,
    methods: Sequence[Method],
    factor: Tensor,
    *,
    weights: Tensor | None = None,
) -> Total:
    """The windows' maps added up, each times its weights; the mean over the members."""
    own, weights = job.windows.weights, torch.ones([]) if weights is None else weights
    request, total = job.asked(methods), Total()
    for member in job.members():
        for group in batches(job.touched, job.batch_size):
            seeds = [own * factor[place] for _, place in group]
            for key, item in job.runner.maps(member, group, seeds, request).items():
                values = item.values if item.channels is None else item.channels
                _add(total, key, job, group, values, weights)
            job.tick(len(group))
    return {key: values / job.count for key, values in total.items()}


def _averaged(job: Job, methods: Sequence[Method]) -> Total:
    """The windows' maps averaged with their weights."""
    sums = job.windows.sums()
    total = _added(job, methods, job.windows.counts() / sums, weights=job.windows.weights)
    return {key: values / sums.to(values) for key, values in total.items()}


def _add(
    total: Total,
    key: MapKey,
    job: Job,
    where: Sequence[Where],
    values: Tensor,
    weights: Tensor,
) -> None:
    """Adds windows ``[windows, any..., *roi]`` to ``[batch, any..., *padded]``."""
    rank = job.windows.weights.ndim
    front = tuple(values.shape[1 : values.ndim - rank])
    if key not in total:
        dtype = torch.promote_types(values.dtype, job.windows.weights.dtype)
        shape = (len(job.runner.volume), *front, *job.windows.shape)
        total[key] = torch.zeros(shape, dtype=dtype, device=job.device)
    kept = values.to(total[key])
    weights = weights.to(kept)
    every = (slice(None),) * len(front)
    for (sample, place), part in zip(where, kept, strict=True):
        total[key][(sample, *every, *place)] += part * weights


def _pooled(job: Job, method: Method) -> Total:
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
                _add(total, (method.name, layer), job, group, values, job.windows.weights)
                job.tick(len(group))
    return {key: values / sums.to(values) / job.count for key, values in total.items()}


Weights = dict[str, tuple[Float[Tensor, "batch targets channels"], Float[Tensor, "batch channels"]]]
"""By layer: the channels' weights for each target, and what is taken off the activations."""


def _grad_weights(job: Job, member: Member) -> Weights:
    """Grad-CAM's channel weights: the mean gradient of the whole stitched target."""

    def mean(activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients.flatten(2).mean(2)

    share, own = _share(job), job.windows.weights
    found = _statistics(job, member, mean, job.touched, lambda place: own * share[place])
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


# ------------------------------------------------------------------------------------- the end


def _finished(job: Job, method: Method, total: Total) -> Maps:
    """A method's maps of the volume, cropped to the image, in its own terms."""
    layers = [key[1] for key in total if isinstance(key, tuple) and key[0] == _cam(method)]
    found: Maps = {}
    for layer in layers if method.of_layer else [None]:
        values, channels = _of_input(job, method, total, layer), None
        if values is None:
            values = job.windows.crop(total[_cam(method), layer])
            if method.rectified and not method.signed:
                values = values.relu()
        else:
            values, channels = method.reduced(values)
        found[method.name, layer] = AttentionMap(
            values, method.name, layer, job.runner.seeds.target, method.signed,
            method.positive_part, channels,
        )  # fmt: skip
    return found


def _cam(method: Method) -> str:
    """The layer map that a method is made of."""
    return "gcam" if method.of_input else method.name


def _of_input(job: Job, method: Method, total: Total, layer: str | None) -> Tensor | None:
    """A method of the input, from the whole image's gradients; None for methods of a layer."""
    if not method.of_input:
        return None
    known: dict[str, Tensor] = {}
    for name, key in (("input_gradients", "saliency"), ("guided_gradients", "gbp")):
        if name in method.evidence:
            per_target = total[key, None].unbind(1)
            known[name] = torch.stack([job.windows.fold(values) for values in per_target], 1)
    if method.of_layer:
        cam = job.windows.crop(total["gcam", layer]).relu()
        return known["guided_gradients"] * cam[:, :, None]
    if "inputs" in method.evidence:
        inputs = job.windows.crop(job.runner.volume)
        known["inputs"] = inputs.to(known["input_gradients"].device)
    maps = [
        method.function(**{
            name: value if name == "inputs" else value[:, t] for name, value in known.items()
        })
        for t in range(len(job.runner.seeds))
    ]  # fmt: skip
    return torch.stack(maps, 1)
