"""Read a tensor as ``[samples, channels, *space]`` on an image, by its geometry."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isclose, prod

from medcam.engine.model.placement.arrangement import (
    MIN_PICTURE_AXES,
    Arrangement,
    limited,
)
from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.kinds import kind_of
from medcam.engine.model.placement.parts import Part, axes_of, flat, in_order, size_of
from medcam.engine.model.placement.samples import (
    NotOnImageError,
    dims_of_samples,
    held_by,
    require_one_place,
)
from medcam.maps import LayerGrid

_SNAP = 1e-3
"""The distance, in voxels, within which a position counts as that of a whole or half voxel."""


_BESIDE = 0.2
"""The share of cells beyond an image from which on they are taken for those of another image."""


def arrangement_of(
    geometry: Geometry, shape: Sequence[int], views: tuple[int, ...] | None = None
) -> Arrangement:
    """Return how to read a tensor on an image.

    Args:
        geometry: The tensor's geometry on the image.
        shape: The image's shape, ``[batch, channels, *space]``.
        views: The axes of a map of an image of views; None for one of channels. A tensor that sees
            one view only has a map of all, too.

    Raises:
        NotOnImageError: The tensor is no picture of the image; the message says why.
    """
    split, crops, leaves = _split(geometry)
    parts = [part for _, part in leaves]
    batch_dims = dims_of_samples(leaves, len(shape))
    require_one_place(leaves, batch_dims)
    batch = prod(part.size for part in parts if part.axis == 0)
    channels = _channel_numbers(leaves, batch_dims)
    is_one_view = geometry.width[1] <= 1 and all(p.size == 1 for p in parts if p.axis == 1)
    map_axes = views if views and is_one_view else _map_axes(parts, channels, len(shape))
    by_axis = {axis: _numbers_of(parts, axis) for axis in map_axes}
    by_axis.update({1: []} if views and is_one_view else {})
    sliced = _slice_axes(leaves, by_axis)
    spaces = [axis for axis in map_axes if axis not in sliced]
    if not any(by_axis[axis] for axis in spaces):
        raise NotOnImageError(
            f"its output is a tensor of shape {[size_of(p) for p in geometry.dims]}, which does "
            f"not lie on the input {tuple(shape[2:])}"
        )
    extents = {axis: prod(parts[n].size for n in by_axis[axis]) for axis in map_axes}
    if max(extents.values()) == 1:
        raise NotOnImageError("its output is a single voxel")
    order = _order(parts, sliced, channels, spaces, by_axis)
    count = prod(parts[n].size for n in channels)
    evidence = (
        batch * prod(extents[a] for a in sliced), count, *(extents[axis] for axis in spaces)
    )  # fmt: skip
    tensor_shape = tuple(prod(p.size for p in dim) for dim in geometry.dims)
    singly = [axis for axis in (0, 1) if axis in (0, *sliced) or not by_axis.get(axis, [0])]
    held = tuple(held_by(geometry, parts, axis) for axis in singly)
    is_plain = order == sorted(order) and evidence == tensor_shape
    rolls = {axis: _roll(geometry, parts, by_axis[axis], axis) for axis in map_axes}
    kind = kind_of(leaves, order, channels, {axis: by_axis[axis] for axis in spaces}, batch_dims)
    return Arrangement(
        split=tuple(split),
        crops=tuple(crops),
        inner=tuple(part.size for part in parts),
        order=tuple(order),
        evidence=evidence,
        batch=batch,
        slices=tuple((axis, extents[axis]) for axis in sliced),
        space_axes=tuple(spaces),
        map_axes=map_axes,
        rolls=tuple(rolls[axis] for axis in spaces),
        slice_rolls=tuple(rolls[axis] for axis in sliced),
        held=held,
        view_width=geometry.width[1],
        grid=_grid(geometry, parts, by_axis, shape, singly),
        centre=geometry.start,
        seen=geometry.seen,
        space=tuple(shape),
        is_plain=is_plain and not any(rolls[axis] for axis in spaces),
        kind=kind,
        absent=tuple(axis for axis in map_axes if not by_axis[axis]),
        is_beside=_is_beside(geometry, shape),
    )


def _order(
    parts: Sequence[Part],
    sliced: Sequence[int],
    channels: Sequence[int],
    spaces: Sequence[int],
    by_axis: dict[int, list[int]],
) -> list[int]:
    """Return the numbers of the parts in the order ``[samples, slices, channels, *space]``.

    Raises:
        NotOnImageError: The tensor runs along other axes, too.
    """
    order = [
        *in_order(parts, 0),
        *(n for axis in sliced for n in by_axis[axis]),
        *channels,
        *(n for axis in spaces for n in by_axis[axis]),
    ]
    order += [n for n in range(len(parts)) if n not in order and parts[n].size == 1]
    if len(order) != len(parts):
        raise NotOnImageError("its output runs along the channels of the input")
    return order


def _is_beside(geometry: Geometry, shape: Sequence[int]) -> bool:
    """Return whether a tensor also holds features of other images, beside those of this one.

    They are other features, or cells that see nothing of this image (stitched images); padding has
    few of these.
    """
    if any(part.inner and part.axes <= {0} for parts in geometry.dims for part in parts):
        return True
    for part in flat(part for parts in geometry.dims for part in parts):
        if part.axis is None or part.axis < 2:
            continue
        reach = geometry.width[part.axis] / 2
        centres = [geometry.start[part.axis] + i * part.step for i in range(part.size)]
        outside = [c + reach < 0 or c - reach > shape[part.axis] - 1 for c in centres]
        if sum(outside) > _BESIDE * part.size:
            return True
    return False


def _split(
    geometry: Geometry,
) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, Part]]]:
    """Return the parts' extents, what is kept of each, and the plain parts with their axis.

    Features behind a part of the image in one axis divide its cells (see
    `medcam.engine.model.placement.geometry.single`); they become a part of the same axis.
    """
    split, crops, leaves = [], [], []
    for dim, parts in enumerate(geometry.dims):
        axes = axes_of(part for part in parts if part.size > 1) - {0, 1}
        features = [part for part in parts if part.size > 1 and not part.axes]
        divided = len(axes) == 1 and bool(features) and bool(parts[0].axes & axes)
        if axes and features and not divided:
            raise NotOnImageError(
                f"its output is a tensor of shape {[size_of(p) for p in geometry.dims]}, which is "
                "flattened"
            )
        for number, part in enumerate(parts):
            if part.inner and any(inner.inner for inner in part.inner):
                raise NotOnImageError("its tokens are surrounded by others twice")
            length = prod(inner.size for inner in part.inner) if part.inner else part.size
            split.append(part.size)
            crops.append((part.before, length))
            if divided and not part.axes:
                coarse = flat(parts[:number])[-1]
                part = Part(part.size, coarse.axis, coarse.step / part.size)
            leaves += [(dim, leaf) for leaf in flat([part])]
    return split, crops, leaves


def _channel_numbers(leaves: Sequence[tuple[int, Part]], batch_dims: set[int]) -> list[int]:
    """Return the numbers of the parts that are channels.

    The input's channels count as channels if there are no others and they are not among the
    samples, or beside others in one axis.
    """
    features = [n for n, (_, part) in enumerate(leaves) if part.axis is None]
    dims = {leaves[n][0] for n in features if leaves[n][1].size > 1}
    of_input = [n for n, (_, part) in enumerate(leaves) if part.axis == 1]
    if not dims:
        dims = {leaves[n][0] for n in of_input} - batch_dims
    beside = [n for n in of_input if leaves[n][0] in dims or leaves[n][1].size == 1]
    return sorted([*features, *beside])


def _map_axes(parts: Sequence[Part], channels: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return the image's axes of the map: the spatial ones, or with views as channels those, too.

    Raises:
        NotOnImageError: The channels are volumes of their own.
    """
    spatial = tuple(range(2, rank))
    views = any(part.axis == 1 and n not in channels for n, part in enumerate(parts))
    if not views:
        return spatial
    present = tuple(axis for axis in spatial if any(part.axis == axis for part in parts))
    if len(present) > MIN_PICTURE_AXES:
        raise NotOnImageError(
            "the network takes the input's channels as volumes of their own: explain one at a time"
        )
    return (1, *present)


def _numbers_of(parts: Sequence[Part], axis: int) -> list[int]:
    """Return the numbers of the parts along one axis, the coarsest first.

    Raises:
        NotOnImageError: They do not make up an even axis.
    """
    numbers = in_order(parts, axis)
    large = [n for n in numbers if parts[n].size > 1]
    for coarse, fine in pairwise(large):
        expected = parts[fine].step * parts[fine].size
        if not isclose(parts[coarse].step, expected, rel_tol=1e-3):
            raise NotOnImageError("its output runs along an axis of the image more than once")
    return numbers


def _slice_axes(leaves: Sequence[tuple[int, Part]], by_axis: dict[int, list[int]]) -> list[int]:
    """Return the axes that the network takes as samples: slices, views or time in the batch."""
    batch_dims = {dim for dim, part in leaves if part.axis == 0} or {0}  # of one sample, removed
    sliced = [
        axis
        for axis, numbers in by_axis.items()
        if numbers
        and all(leaves[n][0] in batch_dims for n in numbers)
        and any(leaves[n][1].size > 1 for n in numbers)
    ]
    pictures = [
        axis
        for axis, numbers in by_axis.items()
        if axis not in sliced and prod(leaves[n][1].size for n in numbers) > 1
    ]
    return sliced if len(pictures) >= MIN_PICTURE_AXES else []


def _grid(
    geometry: Geometry,
    parts: Sequence[Part],
    by_axis: dict[int, list[int]],
    shape: Sequence[int],
    singly: Sequence[int],
) -> LayerGrid:
    """Return where the cells of the map lie; an axis that was summed over is one cell.

    Along views that the network takes one by one, the axes ``singly``, the map has all.
    """
    start, step = [], []
    for axis, numbers in by_axis.items():
        if axis in singly:
            start.append(0.0)
            step.append(1.0)
            continue
        finest = [part for n in numbers if (part := parts[n]).size > 1]
        first = geometry.start[axis]
        for number in numbers:  # features that divide a cell begin before its centre
            fine = parts[number]
            if fine.size > 1 and not any(fine is p for dim in geometry.dims for p in flat(dim)):
                first -= (fine.size - 1) / 2 * fine.step
        low, high = geometry.seen[axis]
        start.append(first)
        step.append(min(finest, key=lambda part: abs(part.step)).step if finest else high - low)
    seen = tuple(
        (-0.5, shape[axis] - 0.5) if axis in singly else geometry.seen[axis] for axis in by_axis
    )
    return LayerGrid(
        tuple(map(_snapped, start)), tuple(map(_snapped, step)),
        seen=limited(seen, [shape[axis] for axis in by_axis]),
    )  # fmt: skip


def _roll(geometry: Geometry, parts: Sequence[Part], numbers: Sequence[int], axis: int) -> int:
    """Return by how many cells a circular shift along an axis is undone.

    Raises:
        NotOnImageError: It is no whole number of cells, or the axis is no longer the one that was
            shifted.
    """
    shift, period = geometry.rolled[axis]
    if not shift:
        return 0
    step = min((parts[n].step for n in numbers if parts[n].size > 1), key=abs, default=1.0)
    cells = prod(parts[n].size for n in numbers)
    shifted = shift / step
    if not isclose(cells * abs(step), period) or abs(shifted - round(shifted)) > _SNAP:
        raise NotOnImageError("its output was shifted circularly, and then cut or strided")
    return -round(shifted)


def _snapped(value: float) -> float:
    """Return a position without what a path of vanishing weight adds to a whole or half voxel."""
    near = round(value * 2) / 2
    return near if abs(value - near) < _SNAP else value
