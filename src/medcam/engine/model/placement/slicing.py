"""Geometries of tensors of which some indices along an axis are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medcam.engine.model.placement.geometry import Geometry, require_together, single
from medcam.engine.model.placement.parts import (
    Part,
    UnplacedError,
    axes_of,
    distances_of,
    merged,
    nothing,
    picked,
    size_of,
)


def sliced(geometry: Geometry, dim: int, low: int, count: int, stride: int = 1) -> Geometry:
    """Return the geometry of every ``stride``-th index from ``low`` on.

    Raises:
        UnplacedError: A part of several axes of the image is cut.
    """
    parts = geometry.dims[dim]
    total = size_of(parts)
    if (low, count, stride) == (0, total, 1):
        return geometry
    if not axes_of(parts):
        require_together(parts)
        return geometry.with_dim(dim, nothing(count))
    if len(parts) == 1 and parts[0].inner:
        return _sliced_inside(geometry, dim, parts[0], low, count, stride)
    if stride == 1 and len(merged(parts)) > 1:
        minor = size_of(parts[1:])
        if low % minor or count % minor or parts[0].inner:
            if not axes_of(parts[1:]) and count == 1 and minor > 1:  # one of the features
                raise UnplacedError("a slice cuts features out of an axis of the image")
            raise UnplacedError("a slice cuts an axis of several parts")
        taken, geometry = _taken(geometry, parts[0], low // minor, count // minor)
        return geometry.with_dim(dim, (taken, *parts[1:])).cut(taken.axis)
    part, geometry = single(geometry, dim)
    if part is None:
        return geometry.with_dim(dim, nothing(count))
    taken, geometry = _taken(geometry, part, low, count, stride)
    return geometry.with_dim(dim, (taken,)).cut(taken.axis)


def _taken(
    geometry: Geometry, part: Part, low: int, count: int, stride: int = 1
) -> tuple[Part, Geometry]:
    """Return every ``stride``-th index of a part from ``low`` on, and where index 0 then is."""
    if part.picks:
        return chosen_of(geometry, part, range(low, low + count * stride, stride))
    taken = replace(part, size=count, step=part.step * stride)
    return taken, geometry.moved(part.axis, low * part.step)


def chosen_of(geometry: Geometry, part: Part, indices: Sequence[int]) -> tuple[Part, Geometry]:
    """Return chosen indices of a part of samples, views or colours, and where index 0 then is."""
    if part.axis is None:
        raise UnplacedError("indices of features")
    distances = distances_of(part)
    places = [distances[index] for index in indices]
    return picked(part.axis, places), geometry.moved(part.axis, places[0])


def _sliced_inside(
    geometry: Geometry, dim: int, part: Part, low: int, count: int, stride: int
) -> Geometry:
    """Return `sliced` for an axis with other indices around its parts (a class token)."""
    inside = size_of(part.inner)
    first, last = max(low, part.before), min(low + count, part.before + inside)
    if stride == 1 and last <= first:
        return geometry.with_dim(dim, nothing(count))
    if stride == 1 and last - first == inside:
        if count == inside:
            return geometry.with_dim(dim, part.inner)
        return geometry.with_dim(dim, (replace(part, size=count, before=part.before - low),))
    if stride == 1 and first - low == 0 and last == low + count:
        inner = geometry.with_dim(dim, part.inner)
        return sliced(inner, dim, low - part.before, count)
    raise UnplacedError("a slice cuts an axis with a class token")


def selected(geometry: Geometry, dim: int, index: int) -> Geometry:
    """Return the geometry of one index of an axis, which is removed."""
    geometry = sliced(geometry, dim, index % max(size_of(geometry.dims[dim]), 1), 1)
    return geometry.with_dims(parts for i, parts in enumerate(geometry.dims) if i != dim)
