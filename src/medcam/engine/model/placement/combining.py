"""Combine the geometries of tensors that are joined: sums, products, concatenations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import isclose, prod

from medcam.engine.model.placement.comparing import is_mirrored, order_of
from medcam.engine.model.placement.geometry import Geometry, runs_over_all, united
from medcam.engine.model.placement.parts import (
    MisplacedError,
    Parts,
    UnplacedError,
    axes_of,
    flat,
    large,
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

    Where the tensors run along the image in different ways, such as a skip connection and the
    output of an attention over all windows, the one counts whose parts tile the image, or that sees
    it more densely.

    Raises:
        UnplacedError: They run in different ways, and none counts clearly more.
    """
    geometries = _unshifted(geometries)
    # by how densely they see the image, those whose parts tile it first
    ranks = [
        (all(map(_tiles, g.dims)), weight(i) / g.volume) for i, g in enumerate(geometries)
    ]  # fmt: skip
    dims: list[Parts] = []
    elsewhere: set[int] = set()
    for dim, size in enumerate(shape):
        choices: dict[int, Parts] = {}
        for i, geometry in enumerate(geometries):
            index = dim - len(shape) + len(geometry.dims)
            if index >= 0 and size_of(geometry.dims[index]) == size:
                choices[i] = _large_if_any(merged(geometry.dims[index]))
        marked = (p for p in choices.values() if any(q.inner or q.apart for q in p))
        plain = next(marked, nothing(size))
        along = [i for i, parts in choices.items() if axes_of(parts)]
        if not along:
            dims.append(plain)
            continue
        axes = max(len(axes_of(choices[i])) for i in along)
        most = [i for i in along if len(axes_of(choices[i])) == axes]
        best = max(most, key=ranks.__getitem__) if axes_of(choices[most[0]]) - {0, 1} else most[0]
        dims.append(choices[best])
        for i in along if size > 1 else ():
            if len(axes_of(choices[i])) == axes and _outline(choices[i]) != _outline(choices[best]):
                if ranks[best][0] == ranks[i][0] and ranks[best][1] < _CLEARLY * ranks[i][1]:
                    raise UnplacedError("tensors of different places are joined")
                elsewhere.add(i)
    placed = [i for i in range(len(geometries)) if i not in elsewhere] or [0]
    _require_overlap([geometries[i] for i in placed])
    result = combined(
        [_broadcast(geometries[i], dims) for i in placed], dims, lambda n: weight(placed[n])
    )
    return _seeing(result, [geometries[i] for i in elsewhere])


def _unshifted(geometries: Sequence[Geometry]) -> Sequence[Geometry]:
    """Return geometries whose circular shifts are alike; small ones that differ become moves.

    Shift networks join features that were shifted by a few cells; what wraps around is little.

    Raises:
        MisplacedError: Far shifts differ.
    """
    result = list(geometries)
    for axis in range(len(result[0].start)):
        if len({geometry.rolled[axis] for geometry in result if axis in geometry.axes}) < 2:
            continue
        for number, geometry in enumerate(result):
            shift, period = geometry.rolled[axis]
            if not shift:
                continue
            shift = shift - period if shift > period / 2 else shift
            if abs(shift) > _FAR * period:
                raise MisplacedError("tensors of different circular shifts are joined")
            rolled = list(geometry.rolled)
            rolled[axis] = (0.0, 0.0)
            result[number] = replace(geometry, rolled=tuple(rolled)).moved(axis, -shift)
    return result


_FAR = 1 / 8
"""The share of an extent from which on a circular shift cannot count as a move."""


def _require_overlap(geometries: Sequence[Geometry]) -> None:
    """Raise if tensors that are joined see parts of the image beside each other.

    Raises:
        MisplacedError: Two neighbours do not overlap: tiles, or the halves of a picture.
    """
    for axis in range(2, len(geometries[0].start)) if len(geometries) > 1 else ():
        along = [g for g in geometries if axis in g.axes and _extent(g, axis) > 1]
        intervals = sorted(geometry.interval(axis) for geometry in along)
        if any(low > high for (_, high), (low, _) in pairwise(intervals)):
            raise MisplacedError("parts of the image that lie beside each other are joined")


_CLEARLY = 2
"""How much more densely a tensor must see the image for its place to count against another's."""


def _seeing(geometry: Geometry, others: Sequence[Geometry]) -> Geometry:
    """Return a geometry that also sees what others do, which give it no place."""
    everything = [geometry, *others]
    reach = map(max, zip(*(each.reach for each in everything), strict=True))
    return replace(geometry, reach=tuple(reach), seen=united([each.seen for each in everything]))


def _tiles(parts: Parts) -> bool:
    """Return whether the parts along each axis of the image lie beside each other, as windows do.

    The parts of a query that all windows share run over the image in each window again.
    """
    leaves = [part for part in flat(parts) if part.size > 1 and part.axis is not None]
    leaves.sort(key=lambda part: (part.axis or 0, -abs(part.step)))
    return all(
        coarse.axis != fine.axis or isclose(coarse.step, fine.step * fine.size, rel_tol=1e-3)
        for coarse, fine in pairwise(leaves)
    )


def _large_if_any(parts: Parts) -> Parts:
    """Return parts without those of one index, unless there is no other."""
    return large(parts) or parts


def _outline(parts: Parts) -> list[tuple[int | None, int, int]]:
    """Return what tensors have in common that run along the same indices.

    Samples and views may come in another order: then they are mixed, and the first tensor counts.
    """
    return [(part.axis, part.size, part.before) for part in flat(parts)]


def _broadcast(geometry: Geometry, dims: Sequence[Parts]) -> Geometry:
    """Return a geometry as that of a tensor that has been repeated along other axes.

    Index 0 of the result is that of the parts along which the tensor does not run itself (the
    positions of a kernel), while the tensor lies at their centre. Parts that run over the whole
    image again are the keys of an attention matrix, whose place is that of its queries.
    """
    missing = len(dims) - len(geometry.dims)
    own = (*((),) * missing, *geometry.dims)
    for has, parts in zip(own, dims, strict=True):
        if not axes_of(has) & axes_of(parts):
            for part in flat(parts):
                if not runs_over_all(part, flat(p for dim in own for p in dim)):
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
    geometries = _unshifted(geometries)
    present = axes_of(part for parts in dims for part in parts)
    start, width, reach, rolled = [], [], [], []
    shares: dict[int, dict[int, float]] = {}
    for axis in range(len(geometries[0].start)):
        along = _along(geometries, axis, is_present=axis in present)
        total = sum(weight(i) / geometries[i].volume for i in along)
        shares[axis] = {i: weight(i) / geometries[i].volume / total for i in along}
        if axis < 2 and len({order_of(geometries[i], axis) for i in along}) > 1:
            shares[axis] = {along[0]: 1.0}  # samples or views in other orders are mixed
        start.append(sum(share * geometries[i].start[axis] for i, share in shares[axis].items()))
        low = min(geometries[i].start[axis] - geometries[i].width[axis] / 2 for i in along)
        high = max(geometries[i].start[axis] + geometries[i].width[axis] / 2 for i in along)
        width.append(high - low)
        reach.append(max([high - low, *(geometries[i].reach[axis] for i in along)]))
        rolled.append(geometries[along[0]].rolled[axis])
    dims = [_mean_steps(geometries, dim, parts, shares) for dim, parts in enumerate(dims)]
    seen = united([geometry.seen for geometry in geometries])
    return Geometry(tuple(dims), tuple(start), tuple(width), tuple(reach), tuple(rolled), seen)


def _along(geometries: Sequence[Geometry], axis: int, *, is_present: bool) -> list[int]:
    """Return the numbers of the tensors whose places count along an axis of the image."""
    numbers = list(range(len(geometries)))
    along = [i for i in numbers if axis in geometries[i].axes] or numbers
    if is_present:
        longest = max(_extent(geometries[i], axis) for i in along)
        along = [i for i in along if _extent(geometries[i], axis) == longest]
    return [i for i in along if not is_mirrored(geometries[i], axis)] or along


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


def _extent(geometry: Geometry, axis: int) -> int:
    """Return the largest number of indices along one axis of the image in one axis of a tensor."""
    sizes = [
        prod(part.size for part in flat(parts) if part.axis == axis) for parts in geometry.dims
    ]
    return max(sizes, default=1)
