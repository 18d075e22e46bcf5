"""Geometry: which axis of the image each axis of a tensor runs along, and where its cells lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

from medcam.engine.model.placement.parts import (
    MisplacedError,
    Part,
    Parts,
    UnplacedError,
    axes_of,
    distances_of,
    flat,
    large,
    merged,
)

Borders = tuple[tuple[float, float], ...]
"""The borders of what a tensor can depend on, on every axis of the image, in voxels."""


def united(borders: Sequence[Borders]) -> Borders:
    """Return the borders of what several tensors can depend on."""
    return tuple(
        (min(low for low, _ in along), max(high for _, high in along))
        for along in zip(*borders, strict=True)
    )


@dataclass(frozen=True)
class Geometry:
    """Geometry of a tensor on one image.

    Attributes:
        dims: The parts of each axis of the tensor.
        start: For each axis of the image, the position of index 0, in voxels: the centre of what
            the cell sees.
        width: For each axis of the image, the width of what a cell sees (its receptive field).
        reach: The same, with what a cell sees without a place of its own (attention over all).
        rolled: For each axis of the image, the circular shift in voxels, and the extent that was
            shifted: cells lie this much before the place that start and step give.
        seen: For each axis of the image, the borders of what the tensor can depend on, in voxels:
            beyond a crop it depends on nothing.
    """

    dims: tuple[Parts, ...]
    start: tuple[float, ...]
    width: tuple[float, ...]
    reach: tuple[float, ...]
    rolled: tuple[tuple[float, float], ...]
    seen: Borders

    @staticmethod
    def of_image(shape: Sequence[int]) -> Geometry:
        """Return the geometry of the image itself.

        Example:
            >>> Geometry.of_image((2, 1)).dims
            ((Part(size=2, axis=0, step=1.0, before=0, inner=(), picks=(), apart=False),), (Part(size=1, axis=1, step=1.0, before=0, inner=(), picks=(), apart=False),))
        """  # noqa: E501  # the line is what Python prints
        rank = len(shape)
        dims = tuple((Part(size, axis, 1.0),) for axis, size in enumerate(shape))
        seen = tuple((-0.5, size - 0.5) for size in shape)
        ones = (1.0,) * rank
        return Geometry(dims, (0.0,) * rank, ones, ones, ((0.0, 0.0),) * rank, seen)

    @property
    def axes(self) -> frozenset[int]:
        """The axes of the image that the tensor runs along."""
        return frozenset().union(*(axes_of(parts) for parts in self.dims))

    @property
    def volume(self) -> float:
        """The number of voxels that a cell sees."""
        return prod(self.width)

    def with_dims(self, dims: Iterable[Parts]) -> Geometry:
        """Return the geometry with other axes of the tensor."""
        return replace(self, dims=tuple(dims))

    def with_dim(self, dim: int, parts: Parts) -> Geometry:
        """Return the geometry with another axis of the tensor."""
        dims = list(self.dims)
        dims[dim] = parts
        return self.with_dims(dims)

    def moved(self, axis: int | None, offset: float, widening: float = 0.0) -> Geometry:
        """Return the geometry with index 0 moved along one axis of the image, in voxels."""
        if axis is None:
            return self
        start, width, reach = list(self.start), list(self.width), list(self.reach)
        start[axis] += offset
        width[axis] += abs(widening)
        reach[axis] += abs(widening)
        return replace(self, start=tuple(start), width=tuple(width), reach=tuple(reach))

    def shifted(self, axis: int, shift: float, period: float) -> Geometry:
        """Return the geometry after a circular shift along one axis of the image, in voxels.

        Raises:
            UnplacedError: Another extent was shifted before.
        """
        earlier, extent = self.rolled[axis]
        if earlier and extent != period:
            raise UnplacedError("circular shifts of several extents")
        shift = (earlier + shift) % period
        rolled = list(self.rolled)
        rolled[axis] = (shift, period) if shift else (0.0, 0.0)
        return replace(self, rolled=tuple(rolled))

    def interval(self, axis: int) -> tuple[float, float]:
        """Return the positions of the first and the last cell along an axis of the image."""
        low = high = self.start[axis]
        for part in flat(part for parts in self.dims for part in parts):
            if part.axis == axis:
                low += min(0.0, (part.size - 1) * part.step, *part.picks)
                high += max(0.0, (part.size - 1) * part.step, *part.picks)
        return low, high

    def cut(self, axis: int | None) -> Geometry:
        """Return the geometry after a cut along one axis of the image: no more is seen beyond."""
        if axis is None:
            return self
        low, high = self.interval(axis)
        reach = self.reach[axis] - 0.5  # half would do if the field were centred at the cell
        seen = list(self.seen)
        seen[axis] = (max(seen[axis][0], low - reach), min(seen[axis][1], high + reach))
        return replace(self, seen=tuple(seen))

    def spread(self, parts: Iterable[Part]) -> Geometry:
        """Return the geometry after cells were mixed along parts, each staying where it is."""
        geometry = self
        for part in flat(parts):
            geometry = geometry.moved(part.axis, 0.0, 2 * (part.size - 1) * part.step)
        return geometry

    def contracted(self, parts: Parts) -> Geometry:
        """Return the geometry after a sum over parts: cells then see all of what these see.

        They lie at the centre of these parts. A sum over the keys of an attention matrix, which run
        over the image again, leaves its queries where they are.
        """
        geometry, summed = self, flat(parts)
        others = [part for dim in self.dims for part in flat(dim)]
        for part in summed:
            if part in others:
                others.remove(part)  # one of two that are alike
        for part in summed:
            places = distances_of(part)
            length, middle = max(places) - min(places), (max(places) + min(places)) / 2
            offset = 0.0 if runs_over_all(part, others) else middle
            geometry = geometry.moved(part.axis, offset, length)
        return geometry


def runs_over_all(part: Part, others: Sequence[Part]) -> bool:
    """Return whether a part runs over all that other parts run over along its axis of the image.

    So do the keys of an attention matrix beside its queries, but not the positions of a kernel.
    """
    extent = _extent_beside(part, others)
    return extent > 0 and part.size * abs(part.step) >= (1 - 1e-6) * extent


def _extent_beside(part: Part, others: Iterable[Part]) -> float:
    """Return the largest extent of other parts along a part's axis of the image, in voxels."""
    beside = (rest for rest in large(others) if rest.axis == part.axis)
    return max((rest.size * abs(rest.step) for rest in beside), default=0.0)


def require_together(parts: Parts) -> None:
    """Raise if features lie in different places: one of them does not lie at the mean.

    Raises:
        MisplacedError: They do.
    """
    if any(part.apart for part in flat(parts)):
        raise MisplacedError("parts of the image are put beside each other and taken apart")


def require_no_tiles(removed: Iterable[Part], geometry: Geometry) -> None:
    """Raise if a sum has run over the tiles of a picture, while their cells are still there.

    Args:
        removed: The parts that were summed over.
        geometry: The geometry of the sum.

    Raises:
        MisplacedError: A cell sees the same position in each tile, so it lies nowhere.
    """
    remaining = [part for parts in geometry.dims for part in flat(parts)]
    for part in large(flat(removed)):
        if part.axis is None or part.axis < 2:
            continue
        extent = _extent_beside(part, remaining)
        if extent > 0 and abs(part.step) >= (1 - 1e-6) * extent:
            raise MisplacedError("parts of the image that lie beside each other are joined")


def single(geometry: Geometry, dim: int) -> tuple[Part | None, Geometry]:
    """Return an axis of a tensor as one part along the image, if it is one.

    A part of the image followed by features divides each cell (pixel shuffle): the step becomes
    finer, and index 0 moves to the first of the finer cells.

    Returns:
        The part, or None if the axis runs along nothing of the image; and the geometry in which
        the axis is that part.

    Raises:
        UnplacedError: The axis runs along several axes of the image, or not evenly.
    """
    parts = merged(geometry.dims[dim])
    axes = axes_of(parts)
    if not axes:
        return None, geometry.with_dim(dim, parts)
    parts = large(parts) or parts[:1]
    is_divided = len(parts) == 2 and parts[1].axis is None and not parts[0].picks
    if is_divided and not parts[0].inner and not parts[1].inner:
        coarse, count = parts[0], parts[1].size
        step = coarse.step / count
        geometry = geometry.moved(coarse.axis, -(count - 1) / 2 * step)
        parts = (Part(coarse.size * count, coarse.axis, step),)
    if len(parts) != 1 or parts[0].inner:
        raise UnplacedError("an axis runs along several axes of the image")
    return parts[0], geometry.with_dim(dim, parts)
