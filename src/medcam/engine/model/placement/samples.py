"""Samples and views: which of them a tensor holds, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor

from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.parts import Part, distances_of, flat, in_order


class NotOnImageError(Exception):
    """A tensor that is no picture: it does not run along the axes of the image."""


@dataclass(frozen=True)
class Held:
    """The samples or views of an image that a tensor holds.

    Attributes:
        axis: The axis of the image: 0 for samples, 1 for views.
        places: The place of each cell on it, in the tensor's order; between two views if a cell
            sees several.
        width: The number of samples or views that a cell sees.
    """

    axis: int
    places: tuple[float, ...]
    width: float

    def cells(self, extent: int) -> list[int]:
        """Return for each sample or view the cell nearest to it; -1 if no cell sees it.

        Example:
            >>> Held(1, (2.0, 0.0), 1.0).cells(3), Held(1, (0.5, 2.5), 2.0).cells(4)
            ([1, -1, 0], [0, 0, 1, 1])
        """
        if self.places == tuple(range(extent)):  # nothing to look for, in every later call
            return list(range(extent))
        result = []
        for index in range(extent):
            distances = [abs(place - index) for place in self.places]
            nearest = min(range(len(distances)), key=distances.__getitem__, default=-1)
            is_seen = nearest >= 0 and distances[nearest] <= max(self.width, 1) / 2
            result.append(nearest if is_seen else -1)
        return result

    def place(self, values: Tensor, dim: int, extent: int) -> Tensor:
        """Return values with each sample or view in its place; those not seen are zero.

        Args:
            values: Values of the tensor's cells.
            dim: Their axis of samples or views.
            extent: The number of samples or views of the image.
        """
        cells = self.cells(extent)
        if cells == list(range(values.shape[dim])):
            return values
        chosen = torch.tensor([max(cell, 0) for cell in cells], device=values.device)
        placed = values.index_select(dim, chosen)
        unseen = [index for index, cell in enumerate(cells) if cell < 0]
        gaps = torch.tensor(unseen, dtype=torch.long, device=values.device)
        return placed.index_fill(dim, gaps, 0)


def held_by(geometry: Geometry, parts: Sequence[Part], axis: int) -> Held:
    """Return the samples or views of an image that a tensor holds.

    Args:
        geometry: The tensor's geometry.
        parts: Its plain parts.
        axis: The axis of the image: 0 for samples, 1 for views.

    Raises:
        NotOnImageError: It holds one of them twice.
    """
    along = [parts[number] for number in in_order(parts, axis)]
    places = [
        geometry.start[axis] + sum(distances)
        for distances in product(*map(distances_of, along))
    ]  # fmt: skip
    if len(set(places)) < len(places):
        raise NotOnImageError(f"its output holds a {('sample', 'view')[axis]} of the image twice")
    return Held(axis, tuple(places), geometry.width[axis])


def require_one_place(leaves: Sequence[tuple[int, Part]], batch_dims: set[int]) -> None:
    """Raise if a tensor's samples are parts of the image that lie in different places.

    Args:
        leaves: The parts, each with the number of its axis.
        batch_dims: The axes that hold samples, see `dims_of_samples`.

    Raises:
        NotOnImageError: They are crops of several places, mirrored views, or copies of samples.
    """
    if any(part.apart and dim in batch_dims for dim, part in leaves):
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
    # without the axis of samples, which one sample was taken out of, the first axis holds them if
    # there is one for channels, too
    spatial = {part.axis for _, part in leaves if part.axis is not None and part.axis > 1}
    dims = max((dim for dim, _ in leaves), default=0) + 1
    return {0} if dims >= min(len(spatial) + 2, rank) else set()


def holds_samples(geometry: Geometry, batch: int) -> bool | None:
    """Return whether the first axis of a tensor holds the samples of the image's first axis.

    None if that is unclear: for a number, and for a tensor that holds some of the samples.

    Args:
        geometry: The tensor's geometry.
        batch: The extent of the image's first axis.
    """
    if not geometry.dims:
        return None
    if any(part.apart for part in flat(geometry.dims[0])):
        return None
    along = [part for part in flat(geometry.dims[0]) if part.axis == 0]
    if prod(part.size for part in along) == batch:
        return True
    elsewhere = any(part.axis == 0 and part.size > 1 for p in geometry.dims for part in flat(p))
    picked = any(part.step <= 1 for part in along)
    return None if elsewhere or picked else False
