"""Rules of operations that join tensors, or sum over axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from medcam.engine.model.placement.combining import combined, joined
from medcam.engine.model.placement.geometry import Geometry, single
from medcam.engine.model.placement.parts import Part, Parts, UnplacedError, axes_of, merged, nothing
from medcam.engine.model.placement.rules.call import Call, Rule

Piece = tuple[int, int, Geometry]
"""A tensor inside a longer axis: its first index there, its extent, and its geometry."""


def concatenation(call: Call) -> Geometry:
    """Rule of tensors joined along one axis."""
    tensors = [t for t in call["tensors"] if t.numel() or t.ndim > 1]
    return _concatenated(call, tensors, call["dim"] % len(call.shape), stacked=False)


def stack(call: Call) -> Geometry:
    """Rule of tensors joined along a new axis."""
    return _concatenated(call, call["tensors"], call["dim"] % len(call.shape), stacked=True)


def _concatenated(call: Call, tensors: Sequence[Tensor], dim: int, *, stacked: bool) -> Geometry:
    """Return the geometry of tensors joined along an axis.

    Slices of the image in a row become an axis of the image again; copies of one place in the batch
    become features. Otherwise the largest tensor that runs along the image keeps its place inside
    the axis; the others are next to it.
    """
    pieces: list[Piece] = []
    low = 0
    for tensor in tensors:
        geometry = call.geometries.get(id(tensor))
        size = 1 if stacked else tensor.shape[dim]
        if geometry is not None:
            if stacked:
                geometry = geometry.with_dims([*geometry.dims[:dim], (), *geometry.dims[dim:]])
            pieces.append((low, size, geometry))
        low += size
    is_whole = len(pieces) == len(tensors)
    row = _row_of_slices(pieces, dim, low) if is_whole else None
    along = [piece for piece in pieces if axes_of(piece[2].dims[dim])]
    if row is not None:
        axis, step = row
        result = _beside(pieces, dim, call.shape).with_dim(dim, (Part(low, axis, step),))
        first = pieces[0][2].start[axis]
        return result.moved(axis, first - result.start[axis])
    if not along:
        # a skip connection counts more still than in a sum (docs/decisions.md: found by experiment)
        result = _beside(pieces, dim, call.shape)
        return result.with_dim(dim, _own_place(call, tensors, pieces, low))
    before, size, largest = max(along, key=lambda piece: piece[1])
    if size == low:
        return joined([largest], call.shape)
    if is_whole and all(_lies_as(geometry, largest) for _, _, geometry in pieces):
        return largest.with_dim(dim, (*nothing(len(pieces)), *largest.dims[dim]))
    if any(2 * piece[1] > size for piece in along if piece[2] is not largest):
        raise UnplacedError("several parts or copies of the image are put beside each other")
    is_mosaic = len(merged(largest.dims[dim])) == 1 and not axes_of(largest.dims[dim]) & {0, 1}
    part, plain = single(largest, dim) if is_mosaic else (None, largest)
    if part is not None and any(id(tensor) in call.foreign for tensor in tensors):
        # another image beside this one: cells that lie beyond its border
        plain = plain.with_dim(dim, (Part(low, part.axis, part.step),))
        return plain.moved(part.axis, -before * part.step)
    return largest.with_dim(dim, (Part(low, before=before, inner=largest.dims[dim]),))


def _beside(pieces: Sequence[Piece], dim: int, shape: Sequence[int]) -> Geometry:
    """Return the geometry of tensors beside each other, larger ones counting more.

    The axis along which they are joined runs along nothing.
    """
    weights = [size / geometry.volume for _, size, geometry in pieces]
    others = [geometry.with_dim(dim, ()) for _, _, geometry in pieces]
    extents = [1 if i == dim else extent for i, extent in enumerate(shape)]
    return joined(others, extents, lambda i: weights[i])


def _lies_as(first: Geometry, second: Geometry) -> bool:
    """Return whether the cells of two tensors lie at the same places."""
    return first.dims == second.dims and (first.start, first.rolled) == (
        second.start,
        second.rolled,
    )


def _own_place(
    call: Call,
    tensors: Sequence[Tensor],
    pieces: Sequence[Piece],
    total: int,
) -> Parts:
    """Return an axis of features, and which of it is of this image if others have the rest."""
    low, high = pieces[0][0], pieces[-1][0] + pieces[-1][1]
    in_a_row = sum(size for _, size, _ in pieces) == high - low
    if not in_a_row or not any(id(tensor) in call.foreign for tensor in tensors):
        return nothing(total)
    return (Part(total, before=low, inner=(Part(high - low),)),)


def _row_of_slices(pieces: Sequence[Piece], dim: int, total: int) -> tuple[int, float] | None:
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
    return replace(after, dims=dims, start=tuple(start), rolled=tuple(rolled))


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
    geometry = geometry.spread(geometry.dims[-2]).with_dim(-1, nothing(call.shape[-1]))
    return [geometry, *[None] * (len(call.shapes) - 1)]


def whole_sequence(name: str) -> Rule:
    """Return the rule of attention over all tokens of one argument; each stays where it is."""

    def rule(call: Call) -> list[Geometry | None]:
        geometry = call.known(name)
        geometry = geometry.spread(part for dim in geometry.dims[:-1] for part in dim)
        return [geometry, *[None] * (len(call.shapes) - 1)]

    return rule


def running(call: Call) -> list[Geometry | None]:
    """Rule of running sums and the like: each stays where it is, and sees all along the axis."""
    geometry = call.known("self")
    return [geometry.spread(geometry.dims[call["dim"]])] * len(call.shapes)


def ordering(call: Call) -> list[Geometry | None]:
    """Rule of values sorted along an axis: along the image they no longer lie where they were."""
    geometry = call.known("self")
    if axes_of(geometry.dims[call["dim"]]) - {0, 1}:
        raise UnplacedError("values are sorted along the image")
    return [geometry, None]


def written(call: Call) -> Geometry:
    """Rule of values written at chosen indices: all stays where it is, if they are no image's."""
    if {name for name in ("src", "source", "values", "value") if _is_followed(call, name)}:
        raise UnplacedError("values of one place are written to another")
    return joined([call.known("self")], call.shape)


def _is_followed(call: Call, name: str) -> bool:
    """Return whether an argument is a tensor that comes from an image."""
    key = id(call.arguments.get(name))
    return key in call.geometries or key in call.unknown or key in call.foreign


def recurrent(call: Call) -> list[Geometry | None]:
    """Rule of a recurrent layer: each step of the sequence stays where it is."""
    geometry = call.known("input")
    result = geometry.contracted(geometry.dims[-1])
    result = result.spread(part for dim in geometry.dims[:-1] for part in dim)
    dims = (*geometry.dims[:-1], nothing(call.shape[-1]))
    return [result.with_dims(dims), *[None] * (len(call.shapes) - 1)]


def copied(call: Call) -> Geometry:
    """Rule of a copy into another tensor: the places of what is copied."""
    return joined([call.known("src")], call.shape)
