"""Rules of operations that join tensors, or sum over axes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medcam.engine.model.placement.geometry import Geometry, combined
from medcam.engine.model.placement.parts import Part, Parts, UnplacedError, axes_of, merged, nothing
from medcam.engine.model.placement.rules.call import Call, Rule, joined


def concatenation(call: Call) -> Geometry:
    """Rule of tensors joined along one axis."""
    tensors = [t for t in call["tensors"] if t.numel() or t.ndim > 1]
    return _concatenated(call, tensors, call["dim"] % len(call.shape), stacked=False)


def stack(call: Call) -> Geometry:
    """Rule of tensors joined along a new axis."""
    return _concatenated(call, call["tensors"], call["dim"] % len(call.shape), stacked=True)


def _concatenated(call: Call, tensors: Sequence[Tensor], dim: int, *, stacked: bool) -> Geometry:
    """Return the geometry of tensors joined along an axis.

    Slices of the image in a row become an axis of the image again. Otherwise the largest tensor
    that runs along the image keeps its place inside the axis; the others are next to it.
    """
    pieces: list[tuple[int, int, Geometry]] = []
    low = 0
    for tensor in tensors:
        geometry = call.geometries.get(id(tensor))
        size = 1 if stacked else tensor.shape[dim]
        if geometry is not None:
            if stacked:
                geometry = geometry.with_dims([*geometry.dims[:dim], (), *geometry.dims[dim:]])
            pieces.append((low, size, geometry))
        low += size
    geometries = [geometry for _, _, geometry in pieces]
    others = [
        joined(
            [g.with_dims(p if i != dim else () for i, p in enumerate(g.dims)) for g in geometries],
            [1 if i == dim else extent for i, extent in enumerate(call.shape)],
        )
    ][0]
    row = _row_of_slices(pieces, dim, low) if len(pieces) == len(tensors) else None
    if row is not None:
        axis, step = row
        result = others.with_dim(dim, (Part(low, axis, step),))
        first = pieces[0][2].start[axis]
        return result.moved(axis, first - result.start[axis])
    along = [piece for piece in pieces if axes_of(piece[2].dims[dim])]
    if not along:
        # a skip connection counts more still than in a sum (docs/decisions.md: found by experiment)
        weights = [size / geometry.volume for _, size, geometry in pieces]
        result = combined(geometries, others.dims, lambda i: weights[i])
        return result.with_dim(dim, _own_place(call, tensors, pieces, low))
    before, size, largest = max(along, key=lambda piece: piece[1])
    if size == low:
        return joined([largest], call.shape)
    inner = (Part(low, before=before, inner=largest.dims[dim]),)
    axes = axes_of(largest.dims[dim])
    start = tuple(
        largest.start[a] if a in axes else others.start[a] for a in range(len(others.start))
    )
    return Geometry(others.with_dim(dim, inner).dims, start, others.width, largest.rolled)


def _own_place(
    call: Call,
    tensors: Sequence[Tensor],
    pieces: Sequence[tuple[int, int, Geometry]],
    total: int,
) -> Parts:
    """Return an axis of features, and which of it is of this image if others have the rest."""
    low, high = pieces[0][0], pieces[-1][0] + pieces[-1][1]
    in_a_row = sum(size for _, size, _ in pieces) == high - low
    if not in_a_row or not any(id(tensor) in call.foreign for tensor in tensors):
        return nothing(total)
    return (Part(total, before=low, inner=(Part(high - low),)),)


def _row_of_slices(
    pieces: Sequence[tuple[int, int, Geometry]], dim: int, total: int
) -> tuple[int, float] | None:
    """Return the axis and the step if the pieces follow each other along one axis of the image."""
    if len(pieces) < 2:
        return None
    parts = [merged(geometry.dims[dim]) for _, _, geometry in pieces]
    first, second = pieces[0][2], pieces[1][2]
    axis = parts[0][0].axis if len(parts[0]) == 1 else None
    if axis is not None and all(len(p) == 1 for p in parts):
        step = parts[0][0].step
        if step == 0 or any(p[0].axis != axis or abs(p[0].step - step) > 1e-6 for p in parts):
            return None
    elif all(not axes_of(p) for p in parts) and all(size == 1 for _, size, _ in pieces):
        moving = [
            a for a in range(len(first.start)) if abs(first.start[a] - second.start[a]) > 1e-6
        ]
        if len(moving) != 1:
            return None
        axis = moving[0]
        step = second.start[axis] - first.start[axis]
    else:
        return None
    expected = first.start[axis]
    for _, size, geometry in pieces:
        if abs(geometry.start[axis] - expected) > 1e-3 * abs(step):
            return None
        expected += size * step
    return axis, step


def reduction(call: Call) -> list[Geometry | None]:
    """Rule of sums, means and maxima over axes."""
    geometry = call.known("self")
    rank = len(geometry.dims)
    chosen = call.arguments.get("dim")
    chosen = range(rank) if chosen is None or chosen == [] else chosen
    chosen = [chosen] if isinstance(chosen, int) else chosen
    removed = {dim % rank for dim in chosen}
    keepdim = len(call.shape) == rank
    dims: list[Parts] = []
    for dim, parts in enumerate(geometry.dims):
        if dim not in removed:
            dims.append(parts)
            continue
        geometry = geometry.contracted(parts)
        if keepdim:
            dims.append(_shrunk(parts))
    return [geometry.with_dims(dims)] * len(call.shapes)


def _shrunk(parts: Parts) -> Parts:
    """Return an axis that has been reduced to one cell, which covers all of it."""
    whole = merged(parts)
    if len(whole) == 1 and whole[0].axis is not None and not whole[0].inner:
        return (Part(1, whole[0].axis, whole[0].step * whole[0].size),)
    return ()


def product(first: str, second: str) -> Rule:
    """Return the rule of a matrix product: rows of the first, columns of the second."""

    def rule(call: Call) -> Geometry:
        rank = len(call.shape)
        pieces, rows, columns = [], nothing(call.shape[-2]), nothing(call.shape[-1])
        outer: list[Geometry] = []
        if {id(call[first]), id(call[second])} & call.unknown:
            raise UnplacedError("a factor of a matrix product comes from an unknown operation")
        left, right = call.of(first), call.of(second)
        if left is not None:
            rows = left.dims[-2]
            outer.append(left.contracted(left.dims[-1]).with_dims((*left.dims[:-2], (), ())))
            pieces.append(left.contracted(left.dims[-1]))
        if right is not None:
            columns = right.dims[-1]
            outer.append(right.contracted(right.dims[-2]).with_dims((*right.dims[:-2], (), ())))
            pieces.append(right.contracted(right.dims[-2]))
        if not pieces:
            return call.known("self").with_dims(nothing(size) for size in call.shape)
        leading = joined(outer, (*call.shape[:-2], 1, 1)).dims[: rank - 2]
        dims = (*leading, rows, columns)
        if left is not None and right is not None:
            return _of_product(left, right, dims)
        return pieces[0].with_dims(dims)

    return rule


def _of_product(left: Geometry, right: Geometry, dims: tuple[Parts, ...]) -> Geometry:
    """Return the geometry of a product of two tensors of the image.

    Along an axis of the rows the place is that of the first, along one of the columns that of the
    second; what is summed over is seen, but gives no place.
    """
    rows, columns = axes_of(dims[-2]), axes_of(dims[-1])
    after = combined([left.contracted(left.dims[-1]), right.contracted(right.dims[-2])], dims)
    start, rolled = list(after.start), list(after.rolled)
    for axis in range(len(start)):
        source = left if axis in rows else right if axis in columns else None
        if source is not None:
            start[axis], rolled[axis] = source.start[axis], source.rolled[axis]
    return Geometry(dims, tuple(start), after.width, tuple(rolled))


def attention(call: Call) -> list[Geometry | None]:
    """Rule of scaled dot-product attention: the tokens of the query.

    Queries of no image (a decoder's object queries) see the image, but have no place on it.
    """
    geometry = call.of("query")
    if geometry is None:
        seen = call.of("value") or call.known("key")
        seen = seen.contracted(seen.dims[-2])
        dims = (*seen.dims[:-2], nothing(call.shape[-2]), nothing(call.shape[-1]))
        return [seen.with_dims(dims), *[None] * (len(call.shapes) - 1)]
    return [
        geometry.with_dim(-1, nothing(call.shape[-1])),
        *[None] * (len(call.shapes) - 1),
    ]


def recurrent(call: Call) -> list[Geometry | None]:
    """Rule of a recurrent layer: each step of the sequence stays where it is."""
    geometry = call.known("input")
    result = geometry.contracted(geometry.dims[-1])
    dims = (*geometry.dims[:-1], nothing(call.shape[-1]))
    return [result.with_dims(dims), *[None] * (len(call.shapes) - 1)]


def copied(call: Call) -> Geometry:
    """Rule of a copy into another tensor: the places of what is copied."""
    return joined([call.known("src")], call.shape)
