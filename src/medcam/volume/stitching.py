"""From the windows' maps to the map of the volume.

*Sums.* Gradients with respect to the image, and HiResCAM: each window's backward pass is seeded
with its share ``w_p`` of the stitched target, and the windows' maps are added up. That equals the
gradient straight through the stitching. Averaging window gradients instead does not.

*Means.* Grad-CAM and its kin: each window weighs its channels by itself, since normalisation layers
scale each window differently. Its map stays signed and in raw units; the volume's map is the mean
with the windows' weights; the last ReLU is applied once, to the whole. A window takes its share of
the target times the number of windows there, as its map is averaged, not added.

*Pooled.* One set of channel weights for all windows (`medcam.volume.pooled`): Eigen-CAM, and
Grad-CAM on request.

Windows without a voxel that the target depends on contribute zero to sums and means: they are
skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medcam.attention import AttentionMap
from medcam.errors import InputError
from medcam.methods import METHODS, Method
from medcam.volume.job import Job, Total, add, share
from medcam.volume.passes import batches
from medcam.volume.pooled import by_pooled_weights

Maps = dict[tuple[str, str | None], AttentionMap]


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
        total.update(_added(job, kinds.summed, share(job)))
    if kinds.averaged:
        total.update(_averaged(job, kinds.averaged))
    for method in kinds.pooled:
        total.update(by_pooled_weights(job, method))
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
                add(total, key, job, group, values, weights)
            job.tick(len(group))
    return {key: values / job.count for key, values in total.items()}


def _averaged(job: Job, methods: Sequence[Method]) -> Total:
    """The windows' maps averaged with their weights."""
    sums = job.windows.sums()
    total = _added(job, methods, job.windows.counts() / sums, weights=job.windows.weights)
    return {key: values / sums.to(values) for key, values in total.items()}


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
