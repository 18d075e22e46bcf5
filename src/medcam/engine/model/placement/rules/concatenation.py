"""Rules of tensors that are joined along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from medcam.engine.model.placement.combining import joined
from medcam.engine.model.placement.comparing import lie_apart, run_against
from medcam.engine.model.placement.geometry import Geometry, single
from medcam.engine.model.placement.parts import (
    MisplacedError,
    Part,
    Parts,
    axes_of,
    merged,
    nothing,
)
from medcam.engine.model.placement.rows import Piece, row_of
from medcam.engine.model.placement.rules.call import Call


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
    row = row_of(pieces, dim) if is_whole else None
    along = [piece for piece in pieces if axes_of(piece[2].dims[dim])]
    if row is not None:
        parts, first = row
        # at the place of the first; what they see stays where it is
        alike = [(at, size, replace(g, start=first.start)) for at, size, g in pieces]
        return _beside(alike, dim, call.shape).with_dim(dim, parts)
    if not along:
        # a skip connection counts more still than in a sum (docs/decisions.md: found by experiment)
        result = _beside(pieces, dim, call.shape)
        own = _own_place(call, tensors, pieces, low)
        apart = lie_apart if stacked else run_against
        if any(apart(pieces[0][2], geometry) for _, _, geometry in pieces):
            own = tuple(replace(part, apart=True) for part in own)
        return result.with_dim(dim, own)
    before, size, largest = max(along, key=lambda piece: piece[1])
    if size == low:
        return joined([largest], call.shape)
    if is_whole and all(_lies_as(geometry, largest) for _, _, geometry in pieces):
        return largest.with_dim(dim, (*nothing(len(pieces)), *largest.dims[dim]))
    if axes_of(largest.dims[dim]) == {1}:  # colours, some of them twice
        return largest.with_dim(dim, nothing(low))
    if any(2 * piece[1] > size for piece in along if piece[2] is not largest):
        raise MisplacedError("several parts or copies of the image are put beside each other")
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
