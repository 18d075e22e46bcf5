"""Assemble maps from evidence: apply each method, validate the values, place them on the image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medcam.engine.activation import Activation, LayerKey
from medcam.engine.evidence import Evidence
from medcam.engine.model.inputs import InputImage
from medcam.engine.model.nested import without_subclass
from medcam.engine.notices import Notices, notice_non_finite
from medcam.engine.request import Request, requested_shape
from medcam.engine.target.scores import TargetScores
from medcam.errors import InputError, NoMapError
from medcam.maps import AttentionMap, ImageName, LayerGrid, MapKey, place, resample
from medcam.methods import Method

_BAD_MAP = (
    "The {} map of {} holds NaN or infinite values. Do the model's activations or logits overflow? "
    "Try float32, or inspect explanation.output."
)


@dataclass(frozen=True, eq=False)
class Assembled:
    """The maps of a run.

    Attributes:
        maps: The maps by key.
        images: The images that they lie on, by number and in its order, ``[batch, channels,
            *space]``.
    """

    maps: dict[MapKey, AttentionMap]
    images: dict[int, Tensor]


@dataclass(frozen=True, eq=False)
class _Source:
    """What one map is made of.

    Attributes:
        method: The method.
        layer: The layer; None for a method of the input alone.
        number: The number of the image that the map lies on.
        activation: The recorded layer; None for a method of the input alone.
        view: The image as ``[batch, channels, *space]``, with the axes of the map as its space.
        is_bag: Whether the first axis of the image is slices or views of one case.
    """

    method: Method
    layer: LayerKey | None
    number: int
    activation: Activation | None
    view: Tensor
    is_bag: bool

    @property
    def recorded(self) -> Activation:
        """The recorded layer of a method of a layer."""
        if self.activation is None:
            raise ValueError("a method of the input alone has no layer")
        return self.activation

    @property
    def space(self) -> tuple[int, ...]:
        """The extents of the image along the axes of the map."""
        return tuple(self.view.shape[2:])


def assemble(
    request: Request,
    evidence: Evidence,
    scores: TargetScores,
    inputs: Sequence[InputImage],
    notices: Notices,
    *,
    is_bag: bool,
) -> Assembled:
    """Return every method's map of every layer and image, ``[batch, targets, *space]``.

    Args:
        request: The request.
        evidence: The activations and gradients of the run.
        scores: The resolved target.
        inputs: The images among the model's inputs.
        notices: Receives the errors about maps that are not finite.
        is_bag: Whether the first axis of the inputs is slices or views of one case.
    """
    sources = list(_sources(request, evidence, inputs, is_bag))
    names = [_key(request, source, None) for source in sources]
    several = len(inputs) > 1
    maps: dict[MapKey, AttentionMap] = {}
    images: dict[int, Tensor] = {}
    for source, plain_key in zip(sources, names, strict=True):
        name = inputs[source.number].name if several else None
        of_method = _input_map if source.method.of_input else _layer_map
        item = of_method(request, evidence, scores, source, notices)
        key = plain_key if names.count(plain_key) == 1 else _key(request, source, name)
        maps[key] = dataclasses.replace(item, image=name, input_space=source.space)
        images.setdefault(source.number, source.view)
    return Assembled(maps, dict(sorted(images.items())))


def _layer_map(
    request: Request,
    evidence: Evidence,
    scores: TargetScores,
    source: _Source,
    notices: Notices,
) -> AttentionMap:
    """Return a method's map of one layer, for all targets, with the arguments of `assemble`."""
    method, activation = source.method, source.recorded
    layout, shape = activation.layout, requested_shape(request.shape, source.space)
    per_target = [
        evidence.map(method, target, source.layer, source.number)
        for target in range(scores.values.shape[1])
    ]
    expected = (*activation.evidence_shape[:1], *layout.space)
    if request.shape is not None:
        _check_shape(method, per_target[0], expected, channels=0)
    is_map = tuple(per_target[0].shape) == expected  # statistics over windows are none
    if is_map:
        per_target = [layout.map_of(values) for values in per_target]
    values = torch.stack(per_target, 1) if len(per_target) > 1 else per_target[0][:, None]
    notice_non_finite(
        notices, values, NoMapError(_BAD_MAP.format(method.title, f"layer {activation.layer!r}"))
    )
    grid = _grid(request, activation, source.space) if is_map else None
    if shape is not None and grid is not None:
        values = _on_image(values, grid, source.space, shape)
    item = method.map_of(values, activation.layer, scores.target)
    return dataclasses.replace(item, grid=grid, on_layer=shape is None)


def _input_map(
    request: Request,
    evidence: Evidence,
    scores: TargetScores,
    source: _Source,
    notices: Notices,
) -> AttentionMap:
    """Return a method's map of one image, for all targets, with the arguments of `assemble`."""
    method, shape = source.method, requested_shape(request.shape, source.space)
    per_target = []
    for target in range(scores.values.shape[1]):
        values = _input_values(request, evidence, source, target)
        _check_shape(method, values, evidence.inputs[source.number].shape, channels=1)
        per_target.append(values.movedim(0, 1)[None] if source.is_bag else values)
    values = torch.stack(per_target, 1) if len(per_target) > 1 else per_target[0][:, None]
    values, channels = method.reduced(values)
    where = "the input" if source.layer is None else f"layer {source.layer[0]!r}"
    notice_non_finite(notices, values, NoMapError(_BAD_MAP.format(method.title, where)))
    if shape is not None:
        values = resample(values, shape)
        if tuple(channels.shape[3:]) != shape:
            flat = resample(channels.flatten(1, 2), shape)
            channels = flat.reshape(*channels.shape[:3], *shape)
    layer = None if source.layer is None else source.layer[0]
    return method.map_of(values, layer, scores.target, channels)


def _input_values(request: Request, evidence: Evidence, source: _Source, target: int) -> Tensor:
    """Return the values of one target, ``[batch, channels, *space]``.

    A method that weighs the input by a layer's map gets that map where its features lie.
    """
    method, activation = source.method, source.activation
    if method.from_cam is None or activation is None:
        return evidence.map(method, target, source.layer, source.number)
    by_name = evidence.by_name(target, source.layer, source.number)
    cam = method.from_cam.cam.of(by_name)
    evidence.note_zero_weights(method, source.layer, by_name, cam)
    space = tuple(evidence.inputs[source.number].shape[2:])
    arrangement = activation.layout.arrangement
    if arrangement is not None and arrangement.map_axes != tuple(range(2, 2 + len(space))):
        raise NoMapError(
            f"{method.title} weighs the input by the map of layer {activation.layer!r}, whose axes "
            "are others than the input's, because the network takes channels or the batch as "
            "slices or views: use a method of the layer or of the input alone."
        )
    grid = _grid(request, activation, space)
    placed = _on_image(activation.layout.map_of(cam)[:, None], grid, space, space)[:, 0]
    return method.from_cam.of(by_name, placed)


def _grid(request: Request, activation: Activation, space: Sequence[int]) -> LayerGrid:
    """Return where the cells of a layer's map lie, as ``placement=`` asks for it."""
    grid = activation.layout.grid
    if request.placement == "resize":
        return LayerGrid.of_extents(activation.layout.map_space, space, "placement='resize'")
    return grid


def _on_image(
    values: Tensor, grid: LayerGrid, space: Sequence[int], shape: Sequence[int]
) -> Tensor:
    """Return maps of a layer at a spatial shape, stretched if the places of cells are unknown."""
    return place(values, grid, space, shape) if grid.known else resample(values, shape)


def _check_shape(method: Method, values: Tensor, expected: Sequence[int], *, channels: int) -> None:
    """Raise if a method, which may be the user's own, returned something that is no map.

    Raises:
        InputError: It is not ``[batch, *layer]``, or for a map of the input ``[batch, channels,
            *space]``.
    """
    if values.ndim == len(expected) and len(values) == expected[0]:
        return
    kind = "[batch, channels, *space]" if channels else "[batch, *layer]"
    raise InputError(
        f"The method {method.title!r} returned the shape {list(values.shape)}; a map has to be "
        f"{kind}, with {expected[0]} sample(s) and {len(expected) - 1 - channels} spatial axes."
    )


def _sources(
    request: Request, evidence: Evidence, inputs: Sequence[InputImage], is_bag: bool
) -> Iterator[_Source]:
    """Yield each method with each layer and image that it has a map of."""
    for method in request.methods:
        if not method.of_layer:
            for number in evidence.images:
                view = _view(inputs[number].tensor, None, is_bag)
                yield _Source(method, None, number, None, view, is_bag)
            continue
        for layer in evidence.layers:
            activation, number = evidence.recorded[layer], layer[1]
            if not method.of_input:
                view = _view(inputs[number].tensor, activation, is_bag)
                yield _Source(method, layer, number, activation, view, is_bag)
            elif number in evidence.images:
                view = _view(inputs[number].tensor, None, is_bag)
                yield _Source(method, layer, number, activation, view, is_bag)


def _view(image: Tensor, activation: Activation | None, is_bag: bool) -> Tensor:
    """Return an image as ``[batch, channels, *space]``, with the axes of a map as its space."""
    plain = tuple(range(2, image.ndim))
    axes = (0, *plain) if is_bag else plain
    if activation is not None and activation.layout.arrangement is not None:
        axes = activation.layout.arrangement.map_axes
    if axes == plain:
        return image
    batch = [] if 0 in axes else [0]
    channels = [axis for axis in range(image.ndim) if axis not in (*batch, *axes)]
    values = without_subclass(image).permute(*batch, *channels, *axes)
    if not batch:
        values = values[None]
    return values.reshape(len(values), -1, *values.shape[1 + len(channels) :])


def _key(request: Request, source: _Source, image: ImageName | None) -> MapKey:
    """Return the key of a map."""
    layer = None if source.layer is None else source.layer[0]
    if request.several:
        name = source.method.name
        return (name, layer) if image is None else (name, layer, image)
    return layer if image is None else (layer, image)
