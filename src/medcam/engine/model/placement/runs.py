"""Several runs of a layer on one image as one arrangement: slices, views, samples or tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import isclose, prod

from medcam.engine.model.placement.arrangement import MIN_PICTURE_AXES, Arrangement, limited
from medcam.engine.model.placement.geometry import Borders, united
from medcam.engine.model.placement.samples import Held
from medcam.maps import LayerGrid

_TOLERANCE = 0.01
"""The share of a step by which slices may lie off an even grid."""


@dataclass(frozen=True)
class Joined:
    """Runs that see a part of the image each, together.

    Attributes:
        arrangement: The arrangement of all of them.
        order: The numbers of the runs, in the order of their evidence.
        group: The number of consecutive runs that see the same samples. In a group the runs are
            slices of each sample; the groups follow each other as a batch.
        kept: The number of consecutive slices of a sample that come from one run.
    """

    arrangement: Arrangement
    order: list[int]
    group: int
    kept: int


def see_apart(runs: Sequence[Arrangement]) -> bool:
    """Return whether runs see different samples or views of an image."""
    return any(axis < 2 for axis in _moving(runs))


def stack_arrangements(runs: Sequence[Arrangement]) -> Joined | None:
    """Return runs that see a part of the image each, together.

    The parts are samples, views or slices that follow each other along one axis that the runs do
    not run along themselves, or tiles that cover a picture without overlap.

    Returns:
        None if the runs do not lie so.
    """
    first, moving = runs[0], _moving(runs)
    if len(moving) == 1 and any(moving[0] in dict(run.slices) for run in runs):
        return _join_slices([_as_slices(run, moving[0]) for run in runs], moving[0])
    alike = [(r.evidence[1:], r.map_axes, r.space_axes, r.slices, _views(r)) for r in runs]
    if not moving or any(item != alike[0] for item in alike):
        return None
    if 0 in moving:
        return _stack_samples(runs)
    if moving == [1]:
        return _stack_views(runs)
    if len(moving) == 1 and moving[0] in first.absent:
        return _stack_slices(runs, moving[0])
    return None if 1 in moving else _stack_tiles(runs, moving)


def _views(run: Arrangement) -> Held | None:
    """Return the views that one run holds, if it holds several."""
    return next((held for held in run.held if held.axis == 1 and len(held.places) > 1), None)


def _moving(runs: Sequence[Arrangement]) -> list[int]:
    """Return the axes of the image along which the runs' positions differ."""
    centres = zip(*(run.centre for run in runs), strict=True)
    moving = [axis for axis, along in enumerate(centres) if len(set(along)) > 1]
    samples = {run.held[0].places for run in runs}
    return [0, *moving] if len(samples) > 1 and 0 not in moving else moving


def _stack_samples(runs: Sequence[Arrangement]) -> Joined | None:
    """Return `stack_arrangements` of runs that see some samples each.

    Runs that see parts of the same samples are put together first.
    """
    by_samples: dict[tuple[float, ...], list[int]] = {}
    for number, run in enumerate(runs):
        by_samples.setdefault(run.held[0].places, []).append(number)
    groups = [by_samples[places] for places in sorted(by_samples)]
    arrangements, order = [], []
    for group in groups:
        if len(group) == 1:
            arrangements.append(runs[group[0]])
            order += group
            continue
        joined = stack_arrangements([runs[number] for number in group])
        if joined is None or len(group) != len(groups[0]):
            return None
        arrangements.append(joined.arrangement)
        order += [group[number] for number in joined.order]
    places = [place for item in arrangements for place in item.held[0].places]
    first = arrangements[0]
    alike = [(a.evidence[1:], a.slices, a.held[1:], a.grid.start, a.map_axes) for a in arrangements]
    if len(set(places)) < len(places) or any(item != alike[0] for item in alike):
        return None
    together = replace(
        first,
        batch=len(places),
        evidence=(sum(item.evidence[0] for item in arrangements), *first.evidence[1:]),
        held=(replace(first.held[0], places=tuple(places)), *first.held[1:]),
    )
    kept = prod(n for _, n in runs[0].slices) if len(groups[0]) > 1 else 1
    return Joined(together, order, len(groups[0]), kept)


def _as_slices(run: Arrangement, axis: int) -> Arrangement:
    """Return the arrangement of a run that sees one slice or view like those that see several."""
    spaces = dict(zip(run.space_axes, run.evidence[2:], strict=True))
    if spaces.get(axis) != 1:
        return run
    number = run.space_axes.index(axis)
    evidence, axes, rolls = list(run.evidence), list(run.space_axes), list(run.rolls)
    del evidence[number + 2], axes[number], rolls[number]
    return replace(
        run, evidence=tuple(evidence), slices=((axis, 1), *run.slices), space_axes=tuple(axes),
        rolls=tuple(rolls), slice_rolls=(0, *run.slice_rolls), is_plain=False,
        absent=tuple(other for other in run.absent if other != axis),
    )  # fmt: skip


def _join_slices(runs: Sequence[Arrangement], axis: int) -> Joined | None:
    """Return `stack_arrangements` of runs that hold several slices or views each as samples."""
    first = runs[0]
    alike = [
        (run.evidence[1:], run.map_axes, run.space_axes, run.held[0], [a for a, _ in run.slices])
        for run in runs
    ]
    if len(first.slices) > 1 or any(item != alike[0] for item in alike):
        return None
    order = sorted(range(len(runs)), key=lambda number: runs[number].centre[axis])
    counts = [dict(runs[number].slices)[axis] for number in order]
    number = first.map_axes.index(axis)
    held = first.held
    if axis == 1:
        views = [place for n in order for held in runs[n].held[1:] for place in held.places]
        if len(set(views)) < len(views):
            return None
        held = (first.held[0], Held(1, tuple(views), first.view_width))
    else:
        expected = runs[order[0]].centre[axis]
        for run, count in zip(order, counts, strict=True):
            step = runs[run].grid.step[number]
            if abs(runs[run].centre[axis] - expected) > _TOLERANCE * abs(step):
                return None
            expected += count * step
    seen = united([run.seen for run in runs])
    start = list(first.grid.start)
    start[number] = runs[order[0]].grid.start[number]
    grid = LayerGrid(
        tuple(start), first.grid.step, seen=_limited(seen, first.map_axes, first.space)
    )
    together = replace(
        first,
        evidence=(first.batch * sum(counts), *first.evidence[1:]),
        slices=((axis, sum(counts)),),
        held=held, seen=seen, grid=grid, is_plain=False,
    )  # fmt: skip
    return Joined(together, order, len(runs), 1)


def _stack_views(runs: Sequence[Arrangement]) -> Joined | None:
    """Return `stack_arrangements` of runs that see one view each."""
    first, views = runs[0], [run.centre[1] for run in runs]
    if len(set(views)) < len(views):
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
    together = _with_slices(runs, [(1, len(runs))], spaces, map_axes, {1: (0.0, 1.0)})
    held = Held(1, tuple(views[number] for number in order), first.view_width)
    together = replace(together, held=(first.held[0], held))
    return Joined(together, order, len(runs), prod(n for _, n in first.slices))


def _stack_slices(runs: Sequence[Arrangement], axis: int) -> Joined | None:
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
    together = _with_slices(runs, [(axis, len(runs))], spaces, first.map_axes, grid)
    return Joined(together, order, len(runs), prod(n for _, n in first.slices))


def _stack_tiles(runs: Sequence[Arrangement], moving: Sequence[int]) -> Joined | None:
    """Return `stack_arrangements` of runs that see a tile of the picture each."""
    first = runs[0]
    spaces = list(zip(first.space_axes, first.evidence[2:], strict=True))
    places = [tuple(run.centre[axis] for axis in moving) for run in runs]
    along = [sorted(set(values)) for values in zip(*places, strict=True)]
    is_lattice = sorted(places) == list(product(*along))
    if not is_lattice or any(first.rolls) or not set(moving) <= set(dict(spaces)) - {*first.absent}:
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
    together = _with_slices(runs, slices, spaces, first.map_axes, grid)
    return Joined(together, order, len(runs), prod(n for _, n in first.slices))


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
    first, seen = runs[0], united([run.seen for run in runs])
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
            seen=_limited(seen, map_axes, first.space),
        ),
        is_plain=False,
        absent=tuple(axis for axis in first.absent if axis in map_axes and axis not in moved),
    )


def _limited(seen: Borders, map_axes: Sequence[int], space: Sequence[int]) -> Borders:
    """Return the borders along the axes of the map; empty if they are those of the image."""
    own = [(-0.5, space[a] - 0.5) if a < 2 else seen[a] for a in map_axes]
    return limited(own, [space[a] for a in map_axes])
