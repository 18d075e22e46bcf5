"""Which slices of a volume are drawn, and how each lies on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, unknown_name
from medcam.views.scene.grid import Grid, Plane

PlaneName = Literal["auto", "axial", "coronal", "sagittal", "all"]

_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))  # of the axes of a grid, from the first voxel on
_AXES = "ijk"  # the stored axes, as the report names them
_THICK = 1.5  # slices thicker than their voxels by this factor were taken in their own plane
_ENERGY = (0.05, 0.95)  # the part of a map's energy that slices are spread over
_SEEN = 0.04  # what is darker than this share of white may be cropped
_STRONG = 0.3  # what is stronger than this share of the strongest colour is not cropped
_MARGIN = 0.03  # of the extent, around what is seen


@dataclass(frozen=True)
class Cut:
    """A slice of a grid.

    Attributes:
        plane: How it lies on the page.
        index: Which one, counted on the grid.
    """

    plane: Plane
    index: int

    def of(self, arranged: NDArray[Any]) -> NDArray[Any]:
        """Gives rows and columns of values on the grid, as they are on the page.

        Args:
            arranged: The values, as `Grid.arrange` gives them.
        """
        plane = self.plane
        rows: NDArray[Any] = np.take(arranged, self.index, axis=plane.through)
        if plane.across < plane.down:
            rows = rows.swapaxes(0, 1)
        rows = rows[:, ::-1] if plane.mirrored else rows
        return rows[::-1] if plane.raised else rows


def planes_of(grid: Grid, wanted: PlaneName) -> list[Plane]:
    """Gives the planes to draw.

    Args:
        grid: The grid.
        wanted: "auto" is the one that thick slices were taken in, else the axial one.

    Raises:
        InputError: A plane of the body, where it is not known how the volume lies in it.
        UnknownNameError: No such plane.

    Example:
        >>> from medcam.views.scene.grid import volume_grid
        >>> [one.name for one in planes_of(volume_grid((9, 9, 9), np.diag([1, 4, 1, 1.0])), "auto")]
        ['Coronal']
    """
    known = ("auto", "axial", "coronal", "sagittal", "all")
    if wanted not in known:
        raise unknown_name("Plane", wanted, known)
    if wanted == "all":
        return list(grid.planes)
    if wanted == "auto":
        spacing = np.asarray(grid.spacing)
        through = int(spacing.argmax()) if spacing.max() > _THICK * np.median(spacing) else 2
        return [plane for plane in grid.planes if plane.through == through]
    found = [plane for plane in grid.planes if plane.name.lower() == wanted]
    if not found:
        raise InputError(
            f"plane={wanted!r}: how this volume lies in the body is not known. Give its affine=, "
            "or leave the plane to 'auto' or 'all'."
        )
    return found


def slices_of(
    maps: Sequence[NDArray[np.floating]], through: int, extent: int, count: int
) -> list[int]:
    """Gives slices where maps are: evenly spread over nine tenths of their energy.

    The energy of a slice is the sum of squares, each map counting as much as the others. A single
    slice is the one with the most; of several maps, with the most around it. Maps of zeros have
    slices from all over.

    Args:
        maps: On the grid.
        through: The axis that slices are counted along.
        extent: How many slices there are.
        count: How many are drawn, at most.

    Example:
        >>> values = np.zeros((2, 2, 12))
        >>> values[..., 4:9] = 1
        >>> slices_of([values], 2, 12, 3), slices_of([values], 2, 12, 1)
        ([4, 6, 8], [4])
    """
    energy = np.zeros(extent)
    for values in maps:
        top = float(np.abs(values).max(initial=0))
        if top > 0:
            others = tuple(axis for axis in range(3) if axis != through)
            own = np.square(values / top, dtype=np.float32).sum(others, dtype=np.float64)
            energy += own / own.sum()
    if not energy.any():
        energy += 1 / extent
    if count == 1:
        flat = bool(np.ptp(energy) <= 1e-9 * energy.max())
        if len(maps) > 1:  # a border that many have in common is none of their places
            energy = np.convolve(energy, np.ones(max(extent // 8, 1)), "same")
        return [extent // 2 if flat else int(energy.argmax())]
    share = energy.cumsum() / energy.sum()
    first, last = (int(np.searchsorted(share, part)) for part in _ENERGY)
    first, last = min(first, extent - 1), min(last, extent - 1)
    missing = min(count, extent) - (last - first + 1)  # a thin map: its neighbours, too
    if missing > 0:
        first = max(min(first - missing // 2, extent - min(count, extent)), 0)
        last = min(first + min(count, extent) - 1, extent - 1)
    chosen = np.rint(np.linspace(first, last, min(count, extent))).astype(int)
    return sorted(set(chosen.tolist()))


def listed_slices(given: Sequence[int], grid: Grid, plane: Plane) -> list[int]:
    """Gives slices named by their stored indices as indices of the grid.

    Raises:
        InputError: None, or one that is not there.
    """
    extent = grid.shape[plane.through]
    wrong = [i for i in given if not hasattr(i, "__index__") or not 0 <= i < extent]
    if wrong or not given:
        raise InputError(
            f"slices={list(given)}: there are {extent} along this axis; give a number of them, or "
            f"indices from 0 to {extent - 1}."
        )
    flip = grid.flipped[plane.through]
    return [extent - 1 - int(i) if flip else int(i) for i in given]


def stored_index(grid: Grid, cut: Cut) -> int:
    """The slice's index along the axis that it is stored on."""
    through = cut.plane.through
    return grid.shape[through] - 1 - cut.index if grid.flipped[through] else cut.index


def position_of(grid: Grid, cut: Cut) -> str:
    """Where a slice lies: along its normal in mm as far as is known, else its stored index.

    Example:
        >>> from medcam.views.scene.grid import volume_grid
        >>> grid = volume_grid((9, 9, 9), np.diag([1, 1, 4, 1.0]))
        >>> position_of(grid, Cut(grid.planes[0], 3))
        'S 12.0 mm'
    """
    through = cut.plane.through
    if grid.affine is None or grid.normals is None:
        return f"{_AXES[grid.order[through]]} {stored_index(grid, cut)}"
    middle = [extent / 2 - 0.5 for extent in grid.shape]
    middle[through] = cut.index
    along = float((grid.affine @ (*middle, 1))[:3] @ grid.normals[through])
    if grid.oblique:  # no coordinate of the body, so without a letter of one
        return f"position {along:.1f} mm, oblique".replace("-", "\N{MINUS SIGN}")
    side = _ENDS[through][0 if along < -0.05 else 1]
    return f"{side} {abs(along):.1f} mm"


def letters_of(grid: Grid, plane: Plane) -> tuple[str, str, str, str] | None:
    """The body's sides at the left, right, top and bottom of a plane; None where unknown."""
    if grid.affine is None:
        return None
    left, right = _ENDS[plane.across][:: -1 if plane.mirrored else 1]
    top, bottom = _ENDS[plane.down][:: -1 if plane.raised else 1]
    return left, right, top, bottom


def crop_of(
    greys: Sequence[NDArray[np.floating]],
    maps: Sequence[NDArray[np.floating]],
    masks: Sequence[NDArray[np.bool_]],
) -> tuple[int, int, int, int]:
    """Gives the rows and columns without margins where all slices are black and no map is strong.

    Args:
        greys: The slices, ``[H, W]`` or ``[H, W, 3]``, black is 0 and white 1.
        maps: The maps in them, in units of their strongest colour.
        masks: The masks in them.

    Returns:
        The first row, the one after the last, and the same of the columns.

    Example:
        >>> grey = np.zeros((100, 100))
        >>> grey[20:60, 30:40] = 1
        >>> crop_of([grey], [], [])
        (17, 63, 27, 43)
    """
    seen = [(grey if grey.ndim == 2 else grey.max(2)) > _SEEN for grey in greys]
    seen += [np.abs(values) > _STRONG for values in maps] + list(masks)
    anywhere = np.logical_or.reduce(seen)
    bounds: list[int] = []
    for axis in (1, 0):
        extent = anywhere.shape[1 - axis]
        places = np.flatnonzero(anywhere.any(axis))
        room = max(round(_MARGIN * extent), 1)
        low, high = (places[0], places[-1]) if places.size else (0, extent - 1)
        bounds += [max(int(low) - room, 0), min(int(high) + 1 + room, extent)]
    return bounds[0], bounds[1], bounds[2], bounds[3]
