"""Samples and views: which of them a tensor holds, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.parts import Part, flat, in_order, indices_of


class NotOnImageError(Exception):
    """A tensor that is no picture: it does not run along the axes of the image."""


def held_indices(
    geometry: Geometry, parts: Sequence[Part], map_axes: Sequence[int]
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return for axis 0 the samples of the image that a tensor holds, for axis 1 the views.

    Args:
        geometry: The tensor's geometry.
        parts: Its plain parts.
        map_axes: The axes of the map: views are among them, colours are not.

    Returns:
        The axis, and the indices in the tensor's order; nothing for an axis whose cells see several
        samples or views.
    """
    indices = []
    for axis in (0, 1):
        along = [parts[number] for number in in_order(parts, axis)]
        is_one_each = geometry.width[axis] <= 1 and (axis == 0 or axis in map_axes)
        if is_one_each or any(part.picks for part in along):
            first = round(geometry.start[axis])
            places = product(*(indices_of(part, 0.0) for part in along))
            indices.append((axis, tuple(first + sum(place) for place in places)))
    return tuple(indices)


def require_one_place(leaves: Sequence[tuple[int, Part]], rank: int) -> None:
    """Raise if a tensor's samples are parts of the image that lie in different places.

    Args:
        leaves: The parts, each with the number of its axis.
        rank: The number of axes of the image.

    Raises:
        NotOnImageError: They are crops of several places, mirrored views, or copies of samples.
    """
    batch_dims = dims_of_samples(leaves, rank)
    if any(part.axis is None and part.step and dim in batch_dims for dim, part in leaves):
        raise NotOnImageError(
            "its samples are parts of the image that lie in different places (crops, mirrored "
            "views) in one batch"
        )


def dims_of_samples(leaves: Sequence[tuple[int, Part]], rank: int) -> set[int]:
    """Return the axes of a tensor that hold samples, and with them slices or views.

    Args:
        leaves: The parts, each with the number of its axis.
        rank: The number of axes of the image.
    """
    dims_of_batch = {dim for dim, part in leaves if part.axis == 0}
    if dims_of_batch:
        return dims_of_batch
    spatial = {part.axis for _, part in leaves if part.axis is not None and part.axis > 1}
    dims = max((dim for dim, _ in leaves), default=0) + 1
    return {0} if dims >= min(len(spatial) + 2, rank) else set()  # a sample without its axis


def holds_samples(geometry: Geometry, batch: int) -> bool | None:
    """Return whether the first axis of a tensor holds the samples of the image's first axis.

    None if that is unclear: for a number, and for a tensor that holds some of the samples.

    Args:
        geometry: The tensor's geometry.
        batch: The extent of the image's first axis.
    """
    if not geometry.dims:
        return None
    if any(part.axis is None and part.step for part in flat(geometry.dims[0])):
        return None
    along = [part for part in flat(geometry.dims[0]) if part.axis == 0]
    if prod(part.size for part in along) == batch:
        return True
    elsewhere = any(part.axis == 0 and part.size > 1 for p in geometry.dims for part in flat(p))
    picked = any(part.step <= 1 for part in along)
    return None if elsewhere or picked else False
