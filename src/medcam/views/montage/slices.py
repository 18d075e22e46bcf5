"""Choose the planes and slices of a volume to draw, and describe where each slice lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, unknown_name
from medcam.views.montage.panels import View
from medcam.views.scene.grid import SIDES, Grid, Plane

PlaneName = Literal["auto", "axial", "coronal", "sagittal", "all"]

_INDEX_NAMES = "ijk"  # of the stored axes, as in the report
_THICK = 1.5  # an axis with this many times the median spacing is the one that was sliced
_ENERGY_RANGE = (0.05, 0.95)  # slices are spread over this part of the maps' energy
_VISIBLE = 0.04  # grey levels below this share of white may be cropped
_STRONG = 0.3  # map values above this share of the strongest colour are not cropped
_MARGIN = 0.03  # share of the extent that is kept around the visible part


@dataclass(frozen=True)
class Cut:
    """A slice of a grid.

    Attributes:
        plane: The plane that it lies in.
        index: Its index on the grid.
    """

    plane: Plane
    index: int

    def of(self, arranged: NDArray[Any]) -> NDArray[Any]:
        """Return the slice of an array on the grid, see `Plane.slice_of`."""
        return self.plane.slice_of(arranged, self.index)


def choose_planes(grid: Grid, name: PlaneName) -> list[Plane]:
    """Return the planes to draw.

    Args:
        grid: The grid.
        name: The name of the plane; "all"; or "auto": the pictures of a stack, the plane of thick
            slices, otherwise axial.

    Raises:
        InputError: A plane is named, but the volume's orientation is unknown.
        UnknownNameError: There is no such plane.

    Example:
        >>> from medcam.views.scene.grid import volume_grid
        >>> grid = volume_grid((9, 9, 9), np.diag([1, 4, 1, 1.0]))
        >>> [plane.name for plane in choose_planes(grid, "auto")]
        ['Coronal']
    """
    names = ("auto", "axial", "coronal", "sagittal", "all")
    if name not in names:
        raise unknown_name("Plane", name, names)
    if name == "all":
        return list(grid.planes)
    if name == "auto":
        spacing = np.asarray(grid.spacing)
        if grid.planes[0].through != 2:  # pictures of a stack
            return list(grid.planes[:1])
        through = int(spacing.argmax()) if spacing.max() > _THICK * np.median(spacing) else 2
        return [plane for plane in grid.planes if plane.through == through]
    planes = [plane for plane in grid.planes if plane.name.lower() == name]
    if not planes:
        raise InputError(
            f"plane={name!r}: the orientation of this volume is unknown. Give its affine=, or use "
            "plane='auto' or 'all'."
        )
    return planes


def choose_slices(
    maps: Sequence[NDArray[np.floating]], through: int, extent: int, count: int
) -> list[int]:
    """Return the indices of slices where the maps are strong.

    The energy of a slice is its sum of squares, summed over the maps, each normalised to a total of
    1. The slices are spread evenly between the 5th and the 95th percentile of the energy. A single
    slice is the one with the most energy, or, for several maps, with the most around it. For maps
    of zeros the slices are spread over the whole volume.

    Args:
        maps: The maps on the grid.
        through: The axis along which slices are counted.
        extent: The number of slices along that axis.
        count: The largest number of slices to draw.

    Example:
        >>> values = np.zeros((2, 2, 12))
        >>> values[..., 4:9] = 1
        >>> choose_slices([values], 2, 12, 3), choose_slices([values], 2, 12, 1)
        ([4, 6, 8], [4])
    """
    energy = _slice_energy(maps, through, extent)
    if count == 1:
        constant = bool(np.ptp(energy) <= 1e-9 * energy.max())
        if len(maps) > 1:  # smoothed, so that a border artefact common to all maps does not win
            energy = np.convolve(energy, np.ones(max(extent // 8, 1)), "same")
        return [extent // 2 if constant else int(energy.argmax())]
    share = energy.cumsum() / energy.sum()
    first, last = (int(np.searchsorted(share, part)) for part in _ENERGY_RANGE)
    first, last = min(first, extent - 1), min(last, extent - 1)
    missing = min(count, extent) - (last - first + 1)  # a thin map: add neighbouring slices
    if missing > 0:
        first = max(min(first - missing // 2, extent - min(count, extent)), 0)
        last = min(first + min(count, extent) - 1, extent - 1)
    indices = np.rint(np.linspace(first, last, min(count, extent))).astype(int)
    return sorted(set(indices.tolist()))


def _slice_energy(
    maps: Sequence[NDArray[np.floating]], through: int, extent: int
) -> NDArray[np.float64]:
    """Return the energy of each slice, see `choose_slices`; constant for maps of zeros."""
    energy = np.zeros(extent)
    for values in maps:
        top = float(np.abs(values).max(initial=0))
        if top > 0:
            in_plane = tuple(axis for axis in range(3) if axis != through)
            squares = np.square(values / top, dtype=np.float32)
            map_energy = squares.sum(in_plane, dtype=np.float64)
            energy += map_energy / map_energy.sum()
    if not energy.any():
        energy += 1 / extent
    return energy


def listed_slices(indices: Sequence[int], grid: Grid, plane: Plane) -> list[int]:
    """Return the indices on the grid of slices given by their stored indices.

    Raises:
        InputError: The list is empty, or an index is out of range.
    """
    extent = grid.shape[plane.through]
    wrong = [i for i in indices if not hasattr(i, "__index__") or not 0 <= i < extent]
    if wrong or len(indices) == 0:
        raise InputError(
            f"slices={list(indices)}: there are {extent} along this axis; give a number of them, "
            f"or indices from 0 to {extent - 1}."
        )
    flip = grid.flipped[plane.through]
    return [extent - 1 - int(i) if flip else int(i) for i in indices]


def stored_index(grid: Grid, cut: Cut) -> int:
    """Return the slice's index along its stored axis."""
    through = cut.plane.through
    return grid.shape[through] - 1 - cut.index if grid.flipped[through] else cut.index


def describe_position(grid: Grid, cut: Cut) -> str:
    """Return where a slice lies: along its normal in mm, or its stored index without an affine.

    Example:
        >>> from medcam.views.scene.grid import volume_grid
        >>> grid = volume_grid((9, 9, 9), np.diag([1, 1, 4, 1.0]))
        >>> describe_position(grid, Cut(grid.planes[0], 3))
        'S 12.0 mm'
    """
    through = cut.plane.through
    if grid.affine is None or grid.normals is None:
        return f"{_INDEX_NAMES[grid.order[through]]} {stored_index(grid, cut)}"
    centre = [extent / 2 - 0.5 for extent in grid.shape]
    centre[through] = cut.index
    along = float((grid.affine @ (*centre, 1))[:3] @ grid.normals[through])
    if grid.oblique:  # along an oblique normal it is no coordinate of the patient, so no letter
        return f"position {along:.1f} mm, oblique".replace("-", "\N{MINUS SIGN}")
    side = SIDES[through][0 if along < -0.05 else 1]
    return f"{side} {abs(along):.1f} mm"


def side_letters(grid: Grid, plane: Plane) -> tuple[str, str, str, str] | None:
    """Return the patient's sides at the left, right, top and bottom of a plane; None if unknown."""
    if grid.affine is None:
        return None
    left, right = SIDES[plane.across][:: -1 if plane.mirrored else 1]
    top, bottom = SIDES[plane.down][:: -1 if plane.raised else 1]
    return left, right, top, bottom


def crop_margins(
    greys: Sequence[NDArray[np.floating]],
    maps: Sequence[NDArray[np.floating]],
    masks: Sequence[NDArray[np.bool_]],
) -> View:
    """Return the view without margins where all slices are black and no map is strong.

    Args:
        greys: The slices of the image, ``[H, W]`` or ``[H, W, 3]``; black is 0 and white 1.
        maps: The same slices of the maps, in units of their strongest colour.
        masks: The same slices of the masks.

    Example:
        >>> grey = np.zeros((100, 100))
        >>> grey[20:60, 30:40] = 1
        >>> crop_margins([grey], [], [])
        (17, 63, 27, 43)
    """
    visible = [(grey if grey.ndim == 2 else grey.max(2)) > _VISIBLE for grey in greys]
    visible += [np.abs(values) > _STRONG for values in maps] + list(masks)
    anywhere = np.logical_or.reduce(visible)
    bounds: list[int] = []
    for axis in (1, 0):
        extent = anywhere.shape[1 - axis]
        indices = np.flatnonzero(anywhere.any(axis))
        margin = max(round(_MARGIN * extent), 1)
        low, high = (indices[0], indices[-1]) if indices.size else (0, extent - 1)
        bounds += [max(int(low) - margin, 0), min(int(high) + 1 + margin, extent)]
    return bounds[0], bounds[1], bounds[2], bounds[3]
