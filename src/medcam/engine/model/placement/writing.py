"""Tensors that are filled part by part: ``batch[i, :, :h, :w] = image``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor

from medcam.engine.model.placement.combining import combined, joined
from medcam.engine.model.placement.comparing import lie_apart, moving_axes
from medcam.engine.model.placement.geometry import Geometry, single
from medcam.engine.model.placement.parts import (
    MisplacedError,
    Part,
    Parts,
    UnplacedError,
    axes_of,
    nothing,
    picked,
    reason_of,
    size_of,
)


def strides_key(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Return the strides that tell tensors apart: not those of axes of one index."""
    return tuple(stride for size, stride in zip(shape, strides, strict=True) if size > 1)


@dataclass(frozen=True, eq=False)
class _Write:
    """A part of a tensor that was written.

    Attributes:
        indices: The indices on the axes of the tensor of which one index was written.
        ranges: The first index and the end on each axis of the tensor.
        geometry: The geometry on the whole tensor.
    """

    indices: dict[int, int]
    ranges: tuple[tuple[int, int], ...]
    geometry: Geometry


@dataclass(eq=False)
class Whole:
    """A tensor that was made empty or constant, and what has been written to it.

    Attributes:
        shape: Its shape.
        strides: Its strides.
        offset: Its offset in the memory.
        writes: For each image the parts that were written.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    writes: dict[int, list[_Write]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells the tensor from others in the same memory."""
        return self.offset, self.shape, strides_key(self.shape, self.strides)

    def write(self, image: int, part: Tensor, geometry: Geometry) -> None:
        """Note that a part was written.

        Args:
            image: The number of the image.
            part: The part, a view of the tensor.
            geometry: The geometry of what was written to it.

        Raises:
            UnplacedError: The part is no block of the tensor.
        """
        self.writes.setdefault(image, []).append(self._on_whole(part, geometry))

    def geometry(self, image: int) -> Geometry | str:
        """Return the geometry of the whole tensor on an image, or the reason why it is unknown."""
        try:
            return _merged(self.writes[image], self.shape)
        except UnplacedError as error:
            return reason_of(error)

    def _on_whole(self, part: Tensor, geometry: Geometry) -> _Write:
        """Return a part that was written, with its geometry on the whole tensor."""
        remaining = int(part.storage_offset()) - self.offset
        dims = list(range(part.ndim))
        parts: list[Parts] = [()] * len(self.shape)
        indices: dict[int, int] = {}
        ends: dict[int, int] = {}
        order = sorted(range(len(self.shape)), key=lambda d: (-self.strides[d], self.shape[d] == 1))
        starts = {}
        for dim in order:
            starts[dim], remaining = divmod(remaining, max(self.strides[dim], 1))
        for dim, size in reversed(list(enumerate(self.shape))):
            if dims and part.stride(dims[-1]) == self.strides[dim] and part.shape[dims[-1]] <= size:
                source = dims.pop()
                ends[dim] = starts[dim] + part.shape[source]
                parts[dim], geometry = _extended(geometry, source, starts[dim], size)
            else:
                indices[dim] = starts[dim]
                ends[dim] = starts[dim] + 1
                parts[dim] = nothing(size)
        if dims or remaining:
            raise UnplacedError("a part of a tensor was written that is no block of it")
        ranges = tuple((starts[dim], ends[dim]) for dim in range(len(self.shape)))
        return _Write(indices, ranges, geometry.with_dims(parts))


def _extended(geometry: Geometry, dim: int, low: int, size: int) -> tuple[Parts, Geometry]:
    """Return the parts of an axis of which a range from ``low`` on was written."""
    parts = geometry.dims[dim]
    if size_of(parts) == size or not axes_of(parts):
        return (parts if size_of(parts) == size else nothing(size)), geometry
    part, geometry = single(geometry, dim)
    if part is None:
        return nothing(size), geometry
    return (Part(size, part.axis, part.step),), geometry.moved(part.axis, -low * part.step)


_MANY = 8
"""The number of slices from which on some stand for all."""


def _merged(writes: Sequence[_Write], shape: Sequence[int]) -> Geometry:
    """Return the geometry after all writes: slices in a row are an axis of the image.

    Raises:
        MisplacedError: Samples, views or slices were filled from different places.
    """
    writes = _without_borders(writes)
    geometries = [write.geometry for write in writes]
    if any(_differ(writes[0], write) for write in writes[1:]):
        raise MisplacedError("parts of a tensor are filled from different places of the image")
    first_indices = writes[0].indices
    varying = [d for d in first_indices if len({write.indices.get(d) for write in writes}) > 1]
    moving = moving_axes([geometry.start for geometry in geometries])
    if len(varying) == 1 and len(writes) > _MANY:  # slices, which are alike
        geometries = [*geometries[: _MANY // 2], *geometries[-_MANY // 2 :]]
    result = joined(geometries, shape)
    if len(writes) == 1:
        for dim, index in first_indices.items():
            if shape[dim] > 1:
                result = result.with_dim(dim, (Part(shape[dim], before=index, inner=(Part(1),)),))
        return result
    if len(varying) != 1:
        return combined(geometries, result.dims)
    dim = varying[0]
    if not moving:
        return result
    axis = moving[0]
    result = result.moved(axis, -result.start[axis])
    if axis < 2 and {write.indices[dim] for write in writes} == set(range(shape[dim])):
        held = {write.indices[dim]: round(write.geometry.start[axis]) for write in writes}
        along = picked(axis, [held[index] for index in range(shape[dim])])
        return result.with_dim(dim, (along,)).moved(axis, held[0])
    places = [(write.indices[dim], write.geometry.start[axis]) for write in writes]
    (first, start), (second, further) = places[0], places[-1]
    step = (further - start) / (second - first)
    lies = [place - start - (index - first) * step for index, place in places]
    if max(map(abs, lies)) > 1e-3 * abs(step):
        raise MisplacedError("parts of a tensor are filled in another order than the image's")
    result = result.with_dim(dim, (Part(shape[dim], axis, step),))
    return result.moved(axis, start - first * step)


def _without_borders(writes: Sequence[_Write]) -> Sequence[_Write]:
    """Return the parts without small ones beside the largest, such as circular padding."""
    largest = max(writes, key=lambda write: prod(end - low for low, end in write.ranges))
    return [write for write in writes if not _is_border(write, largest)]


def _is_border(write: _Write, largest: _Write) -> bool:
    """Return whether a part is a small one beside the largest, of another place of the image."""
    is_beside = any(
        (high <= begin or end <= low) and 2 * (end - begin) <= high - low
        for dim, ((low, high), (begin, end)) in enumerate(
            zip(largest.ranges, write.ranges, strict=True)
        )
        if axes_of(largest.geometry.dims[dim]) - {0, 1}
    )
    return is_beside and lie_apart(largest.geometry, write.geometry)


def _differ(first: _Write, second: _Write) -> bool:
    """Return whether two parts of a tensor, which lie beside each other, show different places.

    They may lie beside each other along one axis of the image, in the tensor as on the image.
    """
    for dim, ((low, high), (begin, end)) in enumerate(
        zip(first.ranges, second.ranges, strict=True)
    ):
        if high > begin and end > low:
            continue
        axes = [*axes_of(first.geometry.dims[dim]), *axes_of(second.geometry.dims[dim])]
        if dim in first.indices:
            moving = moving_axes([first.geometry.start, second.geometry.start])
            return lie_apart(first.geometry, second.geometry, but=axes or moving[:1])
        if not axes or min(axes) < 2:
            return lie_apart(first.geometry, second.geometry, but=axes) and bool(axes)
    return False
