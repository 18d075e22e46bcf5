"""Tensors that are filled part by part: ``batch[i, :, :h, :w] = image``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from medcam.engine.model.placement.combining import combined, joined
from medcam.engine.model.placement.geometry import Geometry, single
from medcam.engine.model.placement.parts import (
    Part,
    Parts,
    UnplacedError,
    axes_of,
    nothing,
    size_of,
)


@dataclass(eq=False)
class Whole:
    """A tensor that was made empty or constant, and what has been written to it.

    Attributes:
        shape: Its shape.
        strides: Its strides.
        offset: Its offset in the memory.
        writes: For each image the parts that were written: the indices on axes of which one index
            was written, and the geometry on the whole tensor.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    writes: dict[int, list[tuple[dict[int, int], Geometry]]] = field(default_factory=dict)

    def write(self, image: int, part: Tensor, geometry: Geometry) -> Geometry:
        """Return the geometry of the whole tensor on an image after a part was written.

        Args:
            image: The number of the image.
            part: The part, a view of the tensor.
            geometry: The geometry of what was written to it.

        Raises:
            UnplacedError: The part is no block of the tensor, or does not fit earlier ones.
        """
        indices, on_whole = self._on_whole(part, geometry)
        writes = self.writes.setdefault(image, [])
        writes.append((indices, on_whole))
        return _merged(writes, self.shape)

    def _on_whole(self, part: Tensor, geometry: Geometry) -> tuple[dict[int, int], Geometry]:
        """Return the axes of which one index was written, and the geometry on the whole tensor."""
        remaining = int(part.storage_offset()) - self.offset
        dims = list(range(part.ndim))
        parts: list[Parts] = []
        indices: dict[int, int] = {}
        order = sorted(range(len(self.shape)), key=lambda d: -self.strides[d])
        starts = {}
        for dim in order:
            starts[dim], remaining = divmod(remaining, max(self.strides[dim], 1))
        for dim, size in enumerate(self.shape):
            if dims and part.stride(dims[0]) == self.strides[dim] and part.shape[dims[0]] <= size:
                source = dims.pop(0)
                own, geometry = _extended(geometry, source, starts[dim], size)
                parts.append(own)
            else:
                indices[dim] = starts[dim]
                parts.append(nothing(size))
        if dims or remaining:
            raise UnplacedError("a part of a tensor was written that is no block of it")
        return indices, geometry.with_dims(parts)


def _extended(geometry: Geometry, dim: int, low: int, size: int) -> tuple[Parts, Geometry]:
    """Return the parts of an axis of which a range from ``low`` on was written."""
    parts = geometry.dims[dim]
    if size_of(parts) == size or not axes_of(parts):
        return (parts if size_of(parts) == size else nothing(size)), geometry
    part, geometry = single(geometry, dim)
    if part is None:
        return nothing(size), geometry
    return (Part(size, part.axis, part.step),), geometry.moved(part.axis, -low * part.step)


def _merged(writes: Sequence[tuple[dict[int, int], Geometry]], shape: Sequence[int]) -> Geometry:
    """Return the geometry after all writes: slices in a row are an axis of the image."""
    geometries = [geometry for _, geometry in writes]
    result = joined(geometries, shape)
    varying = [dim for dim in writes[0][0] if len({indices.get(dim) for indices, _ in writes}) > 1]
    if len(writes) == 1:
        for dim, index in writes[0][0].items():
            if shape[dim] > 1:
                result = result.with_dim(dim, (Part(shape[dim], before=index, inner=(Part(1),)),))
        return result
    if len(varying) != 1:
        return combined(geometries, result.dims)
    dim = varying[0]
    (first, start), (second, further) = [(i[dim], g.start) for i, g in (writes[0], writes[-1])]
    moving = [axis for axis, (a, b) in enumerate(zip(start, further, strict=True)) if a != b]
    if len(moving) != 1:
        return result
    axis = moving[0]
    step = (further[axis] - start[axis]) / (second - first)
    result = result.with_dim(dim, (Part(shape[dim], axis, step),))
    return result.moved(axis, start[axis] - first * step - result.start[axis])
