"""Combine the geometries of tensors that are joined: sums, products, concatenations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.parts import (
    Parts,
    UnplacedError,
    axes_of,
    flat,
    merged,
    nothing,
    size_of,
)

Weight = Callable[[int], float]
"""The weight of each tensor, by its number."""


def _alike(number: int) -> float:
    """Return the weight of a tensor that counts as much as the others."""
    return 1.0


def joined(
    geometries: Sequence[Geometry], shape: Sequence[int], weight: Weight = _alike
) -> Geometry:
    """Return the geometry of an elementwise operation, with broadcasting.

    Args:
        geometries: The geometries of the tensors.
        shape: The shape of the result.
        weight: The weight of each tensor, by its number.

    Raises:
        UnplacedError: The tensors run along the image in different ways.
    """
    dims: list[Parts] = []
    for dim, size in enumerate(shape):
        choices = []
        for geometry in geometries:
            index = dim - len(shape) + len(geometry.dims)
            if index >= 0 and size_of(geometry.dims[index]) == size:
                choices.append(merged(geometry.dims[index]))
        plain = next((parts for parts in choices if any(p.inner for p in parts)), nothing(size))
        choices = [parts for parts in choices if axes_of(parts)][: 1 if size == 1 else None]
        best = max(choices, key=lambda parts: len(axes_of(parts)), default=plain)
        for other in choices:
            if _outline(other) != _outline(best) and len(axes_of(other)) == len(axes_of(best)):
                raise UnplacedError("tensors of different places are joined")
        dims.append(best)
    return combined([_broadcast(geometry, dims) for geometry in geometries], dims, weight)


def _outline(parts: Parts) -> list[tuple[int | None, int, int]]:
    """Return what tensors have in common that run along the same indices."""
    return [(part.axis, part.size, part.before) for part in flat(parts)]


def _broadcast(geometry: Geometry, dims: Sequence[Parts]) -> Geometry:
    """Return a geometry as that of a tensor that has been repeated along other axes.

    Index 0 of the result is that of the parts along which the tensor does not run itself (the
    positions of a kernel), while the tensor lies at their centre.
    """
    missing = len(dims) - len(geometry.dims)
    own = (*((),) * missing, *geometry.dims)
    for has, parts in zip(own, dims, strict=True):
        if not axes_of(has) & axes_of(parts):
            for part in flat(parts):
                geometry = geometry.moved(part.axis, -(part.size - 1) * part.step / 2)
    return replace(geometry, dims=own)


def combined(
    geometries: Sequence[Geometry], dims: Sequence[Parts], weight: Weight = _alike
) -> Geometry:
    """Return the geometry of a tensor that several others have been joined to.

    The position is the mean over the tensors that run along the axis. Each counts by how densely
    it sees the image: its weight over the number of voxels that its cells see. So a skip connection
    counts more than the coarse features that it is joined to, as it does in the gradients of
    trained and of freshly initialised networks (docs/decisions.md). Where features are joined to
    their mirror image, those count that are not mirrored.

    Args:
        geometries: The geometries of the tensors.
        dims: The axes of the result.
        weight: The weight of each tensor, by its number.
    """
    present = axes_of(part for parts in dims for part in parts)
    start, width, rolled, seen = [], [], [], []
    shares: dict[int, dict[int, float]] = {}
    for axis in range(len(geometries[0].start)):
        along = _along(geometries, axis, is_present=axis in present)
        total = sum(weight(i) / geometries[i].volume for i in along)
        shares[axis] = {i: weight(i) / geometries[i].volume / total for i in along}
        start.append(sum(share * geometries[i].start[axis] for i, share in shares[axis].items()))
        low = min(geometries[i].start[axis] - geometries[i].width[axis] / 2 for i in along)
        high = max(geometries[i].start[axis] + geometries[i].width[axis] / 2 for i in along)
        width.append(high - low)
        rolled.append(geometries[along[0]].rolled[axis])
        borders = [geometry.seen[axis] for geometry in geometries]
        seen.append((min(low for low, _ in borders), max(high for _, high in borders)))
    dims = [_mean_steps(geometries, dim, parts, shares) for dim, parts in enumerate(dims)]
    return Geometry(tuple(dims), tuple(start), tuple(width), tuple(rolled), tuple(seen))


def _along(geometries: Sequence[Geometry], axis: int, *, is_present: bool) -> list[int]:
    """Return the numbers of the tensors whose places count along an axis of the image."""
    numbers = list(range(len(geometries)))
    along = [i for i in numbers if axis in geometries[i].axes] or numbers
    if is_present:
        longest = max(_extent(geometries[i], axis) for i in along)
        along = [i for i in along if _extent(geometries[i], axis) == longest]
    return [i for i in along if not _is_mirrored(geometries[i], axis)] or along


def _mean_steps(
    geometries: Sequence[Geometry], dim: int, parts: Parts, shares: dict[int, dict[int, float]]
) -> Parts:
    """Return the parts of an axis with the mean steps of the tensors, weighted as their places."""
    if any(part.inner for part in parts):
        return parts
    result = []
    for number, part in enumerate(parts):
        if part.axis is None or part.size == 1:
            result.append(part)
            continue
        steps: dict[int, float] = {}
        for i in shares[part.axis]:
            own = geometries[i].dims
            alike = merged(own[dim]) if dim < len(own) else ()
            if _outline(alike) == _outline(parts):
                steps[i] = alike[number].step
        total = sum(shares[part.axis][i] for i in steps)
        mean = sum(shares[part.axis][i] * step for i, step in steps.items())
        result.append(replace(part, step=mean / total) if steps else part)
    return tuple(result)


def _is_mirrored(geometry: Geometry, axis: int) -> bool:
    """Return whether a tensor runs against the image along one of its axes."""
    parts = flat(part for dim in geometry.dims for part in dim)
    return any(part.axis == axis and part.size > 1 and part.step < 0 for part in parts)


def _extent(geometry: Geometry, axis: int) -> int:
    """Return the largest number of indices along one axis of the image in one axis of a tensor."""
    sizes = [
        prod(part.size for part in flat(parts) if part.axis == axis) for parts in geometry.dims
    ]
    return max(sizes, default=1)
