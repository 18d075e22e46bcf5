"""Rows: tensors that follow each other along an axis of the image, and make it up again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product

from medcam.engine.model.placement.comparing import lie_apart, moving_axes
from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.parts import (
    MisplacedError,
    Part,
    Parts,
    axes_of,
    distances_of,
    large,
    merged,
    picked,
)

Piece = tuple[int, int, Geometry]
"""A tensor inside a longer axis: its first index there, its extent, and its geometry."""


def row_of(pieces: Sequence[Piece], dim: int) -> tuple[Parts, Geometry] | None:
    """Return the axis that pieces make up that follow each other along axes of the image.

    They are slices of an axis, views, samples, or the tiles of a picture, row by row.

    Returns:
        The parts of the tensor's axis, and the geometry of the first piece; None if they are no
        such row.

    Raises:
        MisplacedError: Samples, views or slices lie in different places otherwise.
    """
    if len(pieces) < 2:
        return None
    first = pieces[0][2]
    parts = [large(merged(geometry.dims[dim])) for _, _, geometry in pieces]
    starts = [geometry.start for _, _, geometry in pieces]
    moving = moving_axes(starts)
    if not moving:
        return None
    axis = moving[0]
    along: Parts | None = None
    is_same = all(p == parts[0] for p in parts)
    if all(len(p) == 1 and p[0].axis == axis and not p[0].inner for p in parts):
        runs = [(p[0], start[axis]) for p, start in zip(parts, starts, strict=True)]
        along = _joined_parts(axis, runs)
        moving = [axis]
    elif is_same and (axes_of(parts[0]) == {0} if parts[0] else all(n == 1 for _, n, _ in pieces)):
        coarse = _lattice(starts, moving)
        if coarse is None and axis < 2:
            coarse = _joined_parts(axis, [(Part(1, axis), start[axis]) for start in starts])
            moving = [axis]
        along = None if coarse is None else (*coarse, *first.dims[dim])
    if along is None:
        return None
    if any(lie_apart(first, geometry, but=moving) for _, _, geometry in pieces):
        raise MisplacedError("samples, views or slices of different places are joined")
    return along, first


def _lattice(starts: Sequence[tuple[float, ...]], moving: Sequence[int]) -> Parts | None:
    """Return the parts of pieces that lie at all places of a lattice, the slowest first."""
    rows = [tuple(round(start[axis], 6) for axis in moving) for start in starts]
    places = [list(dict.fromkeys(along)) for along in zip(*rows, strict=True)]
    for order in permutations(range(len(moving))):
        expected = product(*(places[number] for number in order))
        if list(expected) != [tuple(row[number] for number in order) for row in rows]:
            continue
        parts: list[Part] = []
        for number in order:
            axis = moving[number]
            along = _joined_parts(axis, [(Part(1, axis), place) for place in places[number]])
            if along is None:
                return None
            parts += along
        return tuple(parts)
    return None


def _joined_parts(axis: int, runs: Sequence[tuple[Part, float]]) -> Parts | None:
    """Return parts along an axis of the image, each with its position, as one part.

    Samples and views may come in any order, slices evenly.
    """
    if axis < 2:
        places = [start + d for part, start in runs for d in distances_of(part)]
        return (picked(axis, places),)
    first, position = runs[0]
    step = first.step if first.size > 1 else runs[1][1] - position
    for part, start in runs:
        if abs(start - position) > 1e-3 * abs(step) or (part.size > 1 and part.step != first.step):
            return None
        position += part.size * step
    return (Part(sum(part.size for part, _ in runs), axis, step),)
