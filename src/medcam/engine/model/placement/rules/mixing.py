"""Rules of operations that mix places: sums, products, attention, choices, writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medcam.engine.model.placement.combining import combined, joined
from medcam.engine.model.placement.comparing import run_against
from medcam.engine.model.placement.geometry import Geometry, require_no_tiles
from medcam.engine.model.placement.parts import (
    MisplacedError,
    Part,
    Parts,
    UnplacedError,
    axes_of,
    merged,
    nothing,
)
from medcam.engine.model.placement.rules.call import Call, Rule, tensors_in


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
        if keepdim:
            dims.append(_shrunk(parts))
    summed = [part for dim in removed for part in geometry.dims[dim]]
    result = geometry.contracted(tuple(summed)).with_dims(dims)
    require_no_tiles(summed, result)
    return [result] * len(call.shapes)


def _shrunk(parts: Parts) -> Parts:
    """Return an axis that has been reduced to one cell, which covers all of it."""
    whole = merged(parts)
    if len(whole) == 1 and whole[0].axis is not None and not whole[0].inner:
        return (Part(1, whole[0].axis, whole[0].step * whole[0].size),)
    return ()


def matrix_product(first: str, second: str) -> Rule:
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
            pieces.append(left.contracted(left.dims[-1]))
            outer.append(pieces[-1].with_dims((*left.dims[:-2], (), ())))
        if right is not None:
            columns = right.dims[-1]
            pieces.append(right.contracted(right.dims[-2]))
            outer.append(pieces[-1].with_dims((*right.dims[:-2], (), ())))
        if not pieces:
            return call.known("self").with_dims(nothing(size) for size in call.shape)
        leading = joined(outer, (*call.shape[:-2], 1, 1)).dims[: rank - 2]
        dims = (*leading, rows, columns)
        if left is not None and right is not None:
            return _of_product(left, right, pieces, dims)
        result = pieces[0].with_dims(dims)
        require_no_tiles(left.dims[-1] if left is not None else (), result)
        return result

    return rule


def _of_product(
    left: Geometry, right: Geometry, sums: Sequence[Geometry], dims: tuple[Parts, ...]
) -> Geometry:
    """Return the geometry of a product of two tensors of the image.

    Along an axis of the rows the place is that of the first, along one of the columns that of the
    second; what is summed over is seen, but gives no place. If only one tensor is summed along the
    image (the neighbours of each position), the other one weighs it: its values give the place.

    Args:
        left: The first tensor.
        right: The second tensor.
        sums: Both, after the sum over the axis that they share.
        dims: The axes of the result.
    """
    rows, columns = axes_of(dims[-2]), axes_of(dims[-1])
    of_left, of_right = axes_of(left.dims[-1]), axes_of(right.dims[-2])
    after = combined(sums, dims)
    start, rolled = list(after.start), list(after.rolled)
    for axis in range(len(start)):
        source = left if axis in rows else right if axis in columns else None
        if source is None and (axis in of_left) != (axis in of_right):
            source = sums[0] if axis in of_left else sums[1]
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


def choice(call: Call) -> Geometry:
    """Rule of ``torch.where``: each value is that of one tensor or of the other."""
    geometries = [g for name in ("self", "other") if (g := call.of(name)) is not None]
    if len(geometries) == 2 and run_against(*geometries):
        raise MisplacedError("values of different places are chosen from")
    return joined([g for t in tensors_in(call) if (g := call.geometries.get(id(t)))], call.shape)


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
