"""Stitching: from the windows' maps to the map of the volume, by the rule of each method.

*Sums.* Gradients with respect to the image, and HiResCAM: each window's backward pass starts with
its share ``w_p`` of the stitched target's gradient, and the windows' maps are added up. That equals
the gradient through the stitching. Averaging window gradients instead does not.

*Means.* Grad-CAM and similar methods: each window weights its channels by itself, because
normalisation layers scale each window differently. Its map stays signed and in raw units; the
volume's map is the mean with the windows' weights; the last ReLU is applied once, to the whole. A
window takes its share of the target times the number of windows there, because its map is averaged,
not added.

*Shared weights.* One set of channel weights for all windows
(`medcam.engine.windows.shared_weights`): Eigen-CAM, and Grad-CAM on request.

*Methods of the input* are applied to the gradients of the whole image; Guided Grad-CAM is applied
to these and to the volume's Grad-CAM.

Windows without a voxel that the target depends on contribute zero to sums and means: they are
skipped.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor

from medcam.engine.windows.parts import Parts, layer_part, parts_of
from medcam.engine.windows.plan import StitchingPlan, Totals, add_windows, layers_of
from medcam.engine.windows.prediction import groups
from medcam.engine.windows.shared_weights import count_windows, stitch_by_shared_weights
from medcam.maps import AttentionMap
from medcam.methods import Method

Maps = dict[tuple[str, str | None], AttentionMap]
"""Maps of the volume, by ``(method, layer)``."""


def windows_to_explain(plan: StitchingPlan) -> int:
    """Return the number of windows that all passes together explain, for a progress bar."""
    parts, touched = parts_of(plan), len(plan.touched_places)
    windows = touched * bool(parts.summed) + touched * bool(parts.averaged)
    windows += sum(count_windows(plan, shared) for _, shared in parts.shared.values())
    return windows * plan.count


def zero_maps(plan: StitchingPlan) -> Maps:
    """Return the maps of a target that depends on no voxel: zero everywhere."""
    layer = plan.request.layer if isinstance(plan.request.layer, str) else None
    layer_name = None if layer in ("auto", "full") else layer
    gradient, volume = plan.runner.gradient, plan.windows.crop(plan.runner.volume)
    shape = (len(volume), len(gradient), *volume.shape[2:])
    maps: Maps = {}
    for method in plan.request.methods:
        channels = None
        if method.of_input:
            channels = torch.zeros(*shape[:2], *volume.shape[1:], device=plan.device)
        values = torch.zeros(shape, device=plan.device)
        item = method.map_of(values, layer_name, gradient.target, channels)
        maps[method.name, item.layer] = item
    return maps


def stitch(plan: StitchingPlan) -> Maps:
    """Return the maps of the volume, by ``(method, layer)``, on the grid of the image."""
    parts = parts_of(plan)
    totals: Totals = {}
    if parts.summed:
        ones = torch.ones([])
        totals.update(_sums(plan, parts.summed, factor=plan.shares(), weights=ones))
    if parts.averaged:
        totals.update(_means(plan, parts.averaged))
    for name, (title, shared) in parts.shared.items():
        totals.update(stitch_by_shared_weights(plan, name, title, shared))
    maps: Maps = {}
    for method in plan.request.methods:
        maps.update(_maps_of(plan, method, parts, totals))
    return maps


def _sums(
    plan: StitchingPlan, methods: Mapping[str, Method], *, factor: Tensor, weights: Tensor
) -> Totals:
    """Return the windows' maps, summed over the windows and averaged over the members.

    Args:
        plan: The plan.
        methods: The methods by their names in the result.
        factor: The factor on the windows' weights in their scores, on the padded grid.
        weights: The weight of each voxel of a window's map, ``[*roi]``.
    """
    request, totals = plan.request_for(methods), Totals()
    for member in plan.members():
        for group in groups(plan.touched_places, plan.batch_size):
            score_weights = [plan.windows.weights * factor[place] for _, place in group]
            for key, item in plan.runner.maps(member, group, score_weights, request).items():
                values = item.values if item.channels is None else item.channels
                add_windows(totals, key, plan, group, values, weights)
            plan.tick(len(group))
    return {key: values / plan.count for key, values in totals.items()}


def _means(plan: StitchingPlan, methods: Mapping[str, Method]) -> Totals:
    """Return the mean of the windows' maps, weighted with the windows' weights."""
    sums = plan.windows.sums()
    totals = _sums(plan, methods, factor=plan.windows.counts() / sums, weights=plan.windows.weights)
    return {key: values / sums.to(values) for key, values in totals.items()}


def _maps_of(plan: StitchingPlan, method: Method, parts: Parts, totals: Totals) -> Maps:
    """Return a method's maps of the volume, cropped to the image."""
    part, target = layer_part(method), plan.runner.gradient.target
    name = None if part is None else parts.name_of(part)
    maps: Maps = {}
    for layer in [None] if name is None else layers_of(totals, name):
        channels = None
        if name is None or method.from_cam is not None:
            values = _values_of_input_method(plan, method, parts, totals, layer)
        else:
            values = plan.windows.crop(totals[name, layer])
            if method.rectified and not method.signed:
                values = values.relu()
        if method.of_input:
            values, channels = method.reduced(values)
        maps[method.name, layer] = method.map_of(values, layer, target, channels)
    return maps


def _values_of_input_method(
    plan: StitchingPlan, method: Method, parts: Parts, totals: Totals, layer: str | None
) -> Tensor:
    """Return the values of a method of the input on the whole image, for each target."""
    function, by_name = method.function, dict[str, Tensor]()
    for name in ("input_gradients", "guided_gradients"):
        if name in method.evidence:
            columns = totals[name, None].unbind(1)
            by_name[name] = torch.stack([plan.windows.fold(values) for values in columns], 1)
    if method.from_cam is not None:
        function, cam = method.from_cam.function, method.from_cam.cam
        values = plan.windows.crop(totals[parts.name_of(cam), layer])
        by_name["cam"] = values.relu() if cam.rectified and not cam.signed else values
    parameters = inspect.signature(function).parameters
    inputs = {}
    if "inputs" in parameters:
        image = plan.windows.crop(plan.runner.volume)
        inputs["inputs"] = image.to(next(iter(by_name.values()), image).device)
    per_target = {name: values for name, values in by_name.items() if name in parameters}
    maps = [
        function(**inputs, **{name: values[:, target] for name, values in per_target.items()})
        for target in range(len(plan.runner.gradient))
    ]
    return torch.stack(maps, 1)
