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
from medcam.engine.prepare import Prepared
from medcam.engine.request import Request, requested_shape
from medcam.engine.target.scores import TargetScores
from medcam.errors import InputError, NoMapError
from medcam.maps import AttentionMap, ImageName, LayerGrid, MapKey, place, resample
from medcam.methods import Method

_BAD_MAP = (
    "The {} map of {} holds NaN or infinite values in sample(s) {{samples}}. Do the model's "
    "activations or logits overflow? Try float32, or inspect explanation.output."
)


@dataclass(frozen=True, eq=False)
class Assembled:
    """The maps of a run.

    Attributes:
        maps: The maps by key.
        images: The images that they lie on, by number and in its order, ``[batch, channels,
            *space]``.
        skipped: Layers whose maps are not finite, with the reason, where layers are optional.
    """

    maps: dict[MapKey, AttentionMap]
    images: dict[int, Tensor]
    skipped: dict[str, str]


@dataclass(frozen=True, eq=False)
class _Source:
    """What one map is made of.

    Attributes:
        method: The method.
        layer: The layer; None for a method of the input alone.
        number: The number of the image that the map lies on.
        activation: The recorded layer; None for a method of the input alone.
        view: The image as ``[batch, channels, *space]``, with the axes of the map as its space.
        axes: These axes, as axes of the image: with axis 0 of a bag, with axis 1 of views.
    """

    method: Method
    layer: LayerKey | None
    number: int
    activation: Activation | None
    view: Tensor
    axes: tuple[int, ...]

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
    prepared: Prepared,
    *,
    axes: Sequence[tuple[int, ...]],
) -> Assembled:
    """Return every method's map of every layer and image, ``[batch, targets, *space]``.

    Args:
        request: The request.
        evidence: The activations and gradients of the run.
        scores: The resolved target.
        prepared: The call: its images, whether its layers are optional (those whose maps are not
            finite are left out then, if there are others), and the notices, which receive the
            errors about maps that are not finite.
        axes: For each image the axes of a map of it: the spatial ones, with the axis of slices or
            views before them if the network takes these as samples.
    """
    inputs, notices = prepared.images, prepared.notices
    sources = list(_sources(request, evidence, inputs, axes))
    names = [_key(request, source, None) for source in sources]
    several = len(inputs) > 1
    maps: dict[MapKey, AttentionMap] = {}
    images: dict[int, Tensor] = {}
    skipped: dict[str, str] = {}
    failure: NoMapError | None = None
    for source, plain_key in zip(sources, names, strict=True):
        name = inputs[source.number].name if several else None
        of_method = _input_map if source.method.of_input else _layer_map
        try:
            item = of_method(request, evidence, scores, source, notices)
        except NoMapError as error:
            if not prepared.choice.optional or source.layer is None:
                raise
            skipped[source.layer[0]], failure = str(error), error
            notices.dismiss()
            continue
        key = plain_key if names.count(plain_key) == 1 else _key(request, source, name)
        is_stack = source.axes[0] < 2
        maps[key] = dataclasses.replace(
            item, image=name, input_space=source.space, is_stack=is_stack
        )
        images.setdefault(source.number, source.view)
    if not maps and failure is not None:
        raise failure
    for key, item in maps.items():
        values, channels = notices.marked(item.values), item.channels
        if values is not item.values:
            channels = None if channels is None else notices.marked(channels)
            maps[key] = dataclasses.replace(item, values=values, channels=channels)
    return Assembled(maps, dict(sorted(images.items())), skipped)


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
    grid = grid_of(request, activation, source.space) if is_map else None
    if shape is not None and grid is not None:
        values = on_image(values, grid, source.space, shape)
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
    per_target = [
        _input_values(request, evidence, source, target) for target in range(scores.values.shape[1])
    ]
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
    """Return the values of one target, ``[batch, channels, *space]``, with the axes of the map.

    A method that weighs the input by a layer's map gets that map where its features lie.
    """
    method, activation, number = source.method, source.activation, source.number
    if method.from_cam is None or activation is None:
        values = evidence.map(method, target, source.layer, number)
        _check_shape(method, values, evidence.inputs[number].shape, channels=1)
        return _arranged(values, source.axes)
    by_name = evidence.by_name(target, source.layer, number)
    cam = method.from_cam.cam.of(by_name)
    evidence.blanks.note(method.from_cam.cam, target, source.layer, by_name, cam)
    grid = grid_of(request, activation, source.space)
    cam = activation.layout.map_of(cam)[:, None]
    placed = on_image(cam, grid, source.space, source.space)[:, 0]
    for name in ("inputs", "input_gradients", "guided_gradients"):
        if by_name.get(name) is not None:
            by_name[name] = _arranged(by_name[name], source.axes)
    values = method.from_cam.of(by_name, placed)
    _check_shape(method, values, source.view.shape, channels=1)
    return values


def grid_of(request: Request, activation: Activation, space: Sequence[int]) -> LayerGrid:
    """Return where the cells of a layer's map lie, as ``placement=`` asks for it."""
    grid = activation.layout.grid
    if request.placement == "resize":
        return LayerGrid.of_extents(activation.layout.map_space, space, "placement='resize'")
    return grid


def on_image(values: Tensor, grid: LayerGrid, space: Sequence[int], shape: Sequence[int]) -> Tensor:
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
    request: Request,
    evidence: Evidence,
    inputs: Sequence[InputImage],
    axes: Sequence[tuple[int, ...]],
) -> Iterator[_Source]:
    """Yield each method with each layer and image that it has a map of."""
    for method in request.methods:
        if not method.of_layer:
            for number in evidence.images_of(method):
                yield _source(method, None, number, None, inputs[number].tensor, axes[number])
            continue
        for layer in evidence.layers:
            number = layer[1]
            if not method.of_input or number in evidence.images_of(method):
                activation, image = evidence.recorded[layer], inputs[number].tensor
                arrangement = activation.layout.arrangement
                own = axes[number] if arrangement is None else arrangement.map_axes
                yield _source(method, layer, number, activation, image, own)


def _source(
    method: Method,
    layer: LayerKey | None,
    number: int,
    activation: Activation | None,
    image: Tensor,
    axes: tuple[int, ...],
) -> _Source:
    """Return what a map of an image is made of, with a view of the image along the map's axes."""
    view = image if axes == _spatial(image) else _arranged(without_subclass(image), axes)
    return _Source(method, layer, number, activation, view, axes)


def _spatial(image: Tensor) -> tuple[int, ...]:
    """Return the spatial axes of an image."""
    return tuple(range(2, image.ndim))


def _arranged(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return values of an image as ``[batch, channels, *space]``, with the map's axes as space."""
    if axes == _spatial(values):
        return values
    batch = [] if 0 in axes else [0]
    channels = [axis for axis in range(values.ndim) if axis not in (*batch, *axes)]
    values = values.permute(*batch, *channels, *axes)
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
