"""Several runs of a layer on one image as one arrangement: slices, views, samples or tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import isclose

from medcam.engine.model.placement.arrangement import MIN_PICTURE_AXES, Arrangement, limited
from medcam.maps import LayerGrid

_TOLERANCE = 0.01
"""The share of a step by which slices may lie off an even grid."""


def see_apart(runs: Sequence[Arrangement]) -> bool:
    """Return whether runs see different samples or views of an image."""
    return any(axis < 2 for axis in _moving(runs))


def stack_arrangements(runs: Sequence[Arrangement]) -> tuple[Arrangement, list[int]] | None:
    """Return the arrangement of runs that see a part of the image each, and the order of the runs.

    The parts are samples, views or slices that follow each other along one axis that the runs do
    not run along themselves, or tiles that cover a picture without overlap.

    Returns:
        None if the runs do not lie so.
    """
    first, moving = runs[0], _moving(runs)
    alike = [(run.evidence[1:], run.map_axes, run.space_axes, run.slices) for run in runs]
    if not moving or any(item != alike[0] for item in alike):
        return None
    if moving == [0]:
        return _stack_samples(runs)
    if first.evidence[0] != max(run.evidence[0] for run in runs) or 0 in moving:
        return None
    if moving == [1]:
        return _stack_views(runs)
    if len(moving) == 1 and moving[0] in first.absent:
        return _stack_slices(runs, moving[0])
    return None if 1 in moving else _stack_tiles(runs, moving)


def _moving(runs: Sequence[Arrangement]) -> list[int]:
    """Return the axes of the image along which the runs' positions differ."""
    centres = zip(*(run.centre for run in runs), strict=True)
    return [axis for axis, along in enumerate(centres) if len(set(along)) > 1]


def _stack_samples(runs: Sequence[Arrangement]) -> tuple[Arrangement, list[int]] | None:
    """Return `stack_arrangements` of runs that see some samples each."""
    held = [dict(run.indices).get(0, ()) for run in runs]
    together = [sample for samples in held for sample in samples]
    if not all(held) or len(set(together)) < len(together):
        return None
    order = sorted(range(len(runs)), key=lambda number: held[number])
    indices = tuple(sample for number in order for sample in held[number])
    first, count = runs[0], sum(run.evidence[0] for run in runs)
    arrangement = replace(
        first, batch=len(indices), evidence=(count, *first.evidence[1:]),
        indices=((0, indices), *((a, i) for a, i in first.indices if a)),
    )  # fmt: skip
    return arrangement, order


def _stack_views(runs: Sequence[Arrangement]) -> tuple[Arrangement, list[int]] | None:
    """Return `stack_arrangements` of runs that see one view each."""
    first, views = runs[0], [round(run.centre[1]) for run in runs]
    if len(set(views)) < len(views) or 1 in first.map_axes:
        return None
    order = sorted(range(len(runs)), key=lambda number: views[number])
    spaces = [
        (axis, extent)
        for axis, extent in zip(first.space_axes, first.evidence[2:], strict=True)
        if axis not in first.absent
    ]
    map_axes = (1, *(axis for axis, _ in spaces))
    if sum(extent > 1 for _, extent in spaces) < MIN_PICTURE_AXES:
        return None
    indices = ((0, dict(first.indices).get(0, ())), (1, tuple(views[n] for n in order)))
    arrangement = _with_slices(runs, [(1, len(runs))], spaces, map_axes, {1: (0.0, 1.0)})
    return replace(arrangement, indices=tuple(item for item in indices if item[1])), order


def _stack_slices(runs: Sequence[Arrangement], axis: int) -> tuple[Arrangement, list[int]] | None:
    """Return `stack_arrangements` of runs that see one slice each."""
    first, places = runs[0], [run.centre[axis] for run in runs]
    low, step = min(places), (max(places) - min(places)) / (len(runs) - 1)
    if any(abs(p - low - i * step) > _TOLERANCE * step for i, p in enumerate(sorted(places))):
        return None
    order = sorted(range(len(runs)), key=lambda number: places[number])
    spaces = [
        (a, n) for a, n in zip(first.space_axes, first.evidence[2:], strict=True) if a != axis
    ]
    if sum(n > 1 for _, n in spaces) < MIN_PICTURE_AXES:
        return None
    grid = {axis: (low, step)}
    return _with_slices(runs, [(axis, len(runs))], spaces, first.map_axes, grid), order


def _stack_tiles(
    runs: Sequence[Arrangement], moving: Sequence[int]
) -> tuple[Arrangement, list[int]] | None:
    """Return `stack_arrangements` of runs that see a tile of the picture each."""
    first = runs[0]
    spaces = list(zip(first.space_axes, first.evidence[2:], strict=True))
    places = [tuple(run.centre[axis] for axis in moving) for run in runs]
    along = [sorted(set(values)) for values in zip(*places, strict=True)]
    if (
        sorted(places) != list(product(*along))
        or any(first.rolls)
        or set(moving) & set(first.absent)
    ):
        return None
    steps, starts = (
        dict(zip(first.map_axes, values, strict=True))
        for values in (first.grid.step, first.grid.start)
    )
    grid = {}
    for axis, positions in zip(moving, along, strict=True):
        tile = dict(spaces)[axis] * steps[axis]
        even = [positions[0] + number * tile for number in range(len(positions))]
        if not all(
            isclose(*pair, abs_tol=_TOLERANCE) for pair in zip(positions, even, strict=True)
        ):
            return None
        grid[axis] = (starts[axis] - first.centre[axis] + positions[0], steps[axis])
    slices = [(axis, len(values)) for axis, values in zip(moving, along, strict=True)]
    order = sorted(range(len(runs)), key=lambda number: places[number])
    return _with_slices(runs, slices, spaces, first.map_axes, grid), order


def _with_slices(
    runs: Sequence[Arrangement],
    slices: Sequence[tuple[int, int]],
    spaces: Sequence[tuple[int, int]],
    map_axes: tuple[int, ...],
    grid: dict[int, tuple[float, float]],
) -> Arrangement:
    """Return the arrangement of runs that are slices of each sample.

    Args:
        runs: The runs' arrangements.
        slices: The axes along which the runs follow each other, and their numbers.
        spaces: The spatial axes of one run, and their extents.
        map_axes: The axes of the map.
        grid: The position of the first cell and the step along the axes of ``slices``.
    """
    first = runs[0]
    seen = tuple(
        (min(low for low, _ in borders), max(high for _, high in borders))
        for borders in zip(*(run.seen for run in runs), strict=True)
    )
    pairs = zip(first.grid.start, first.grid.step, strict=True)
    grids = {**dict(zip(first.map_axes, pairs, strict=True)), **grid}
    axes = tuple(axis for axis, _ in spaces)
    moved = {axis for axis, _ in slices}
    return replace(
        first,
        evidence=(first.evidence[0] * len(runs), first.evidence[1], *(n for _, n in spaces)),
        slices=(*first.slices, *slices),
        space_axes=axes,
        map_axes=map_axes,
        rolls=tuple(dict(zip(first.space_axes, first.rolls, strict=True))[axis] for axis in axes),
        slice_rolls=(*first.slice_rolls, *(0 for _ in slices)),
        seen=seen,
        grid=LayerGrid(
            tuple(grids[axis][0] for axis in map_axes),
            tuple(grids[axis][1] for axis in map_axes),
            seen=limited([seen[a] for a in map_axes], [first.space[a] for a in map_axes]),
        ),
        is_plain=False,
        absent=tuple(axis for axis in first.absent if axis in map_axes and axis not in moved),
    )
