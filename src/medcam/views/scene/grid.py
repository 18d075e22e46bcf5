"""Turn volumes stored in any order upright: axes to the patient's right, anterior and superior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDES = (("L", "R"), ("P", "A"), ("I", "S"))
"""The patient's sides at the first and last voxel of each axis of an upright grid."""

_MIN_OBLIQUE = 0.5  # degrees; smaller tilts are rounding errors in the scanner's header


@dataclass(frozen=True)
class Plane:
    """One picture of a grid: which axes it shows, and in which directions.

    Attributes:
        name: The title of the picture.
        across: The axis shown from left to right on the screen.
        down: The axis shown from top to bottom.
        through: The axis along which slices are counted.
        mirrored: Whether ``across`` is shown from right to left instead.
        raised: Whether ``down`` is shown from bottom to top instead.
        shows: "overlay", "image" or "map".
    """

    name: str
    across: int
    down: int
    through: int
    mirrored: bool = False
    raised: bool = False
    shows: str = "overlay"

    def slice_of(self, arranged: NDArray[Any], index: int) -> NDArray[Any]:
        """Return one slice as it is shown, ``[rows, columns]`` or ``[rows, columns, 3]``.

        Args:
            arranged: Values on the grid, as `Grid.arrange` returns them.
            index: The slice's index along ``through``.
        """
        rows: NDArray[Any] = np.take(arranged, index, axis=self.through)
        rows = rows.swapaxes(0, 1) if self.across < self.down else rows
        rows = rows[:, ::-1] if self.mirrored else rows
        return rows[::-1] if self.raised else rows


# Radiological convention: axial slices are seen from the feet and coronal slices from the front,
# so the patient's right is on the left of the screen.
_ANATOMICAL_PLANES = (
    Plane("Axial", 0, 1, 2, mirrored=True, raised=True),
    Plane("Coronal", 0, 2, 1, mirrored=True, raised=True),
    Plane("Sagittal", 1, 2, 0, mirrored=True, raised=True),
)
_UNORIENTED_PLANES = (
    Plane("Axes 1, 2", 0, 1, 2, raised=True),
    Plane("Axes 1, 3", 0, 2, 1, raised=True),
    Plane("Axes 2, 3", 1, 2, 0, raised=True),
)
_STACK_PLANES = (
    Plane("Pictures", 2, 1, 0),
    Plane("Axes 1, 2", 0, 1, 2),
    Plane("Axes 1, 3", 0, 2, 1),
)
_PICTURE_PLANES = tuple(
    Plane(shows.title(), 0, 1, 2, shows=shows) for shows in ("image", "map", "overlay")
)


@dataclass(frozen=True, eq=False)
class Grid:
    """An upright grid: each axis is the one nearest to the patient's right, anterior or superior.

    Attributes:
        shape: The extents.
        order: The stored axis that becomes each axis of this grid.
        flipped: Whether that stored axis is reversed.
        spacing: The distance between voxels along each axis in mm; 1 if unknown.
        affine: From indices of this grid to RAS+ mm; None if unknown.
        normals: The unit normals of the slices along each axis; None if unknown.
        oblique: The largest angle in degrees between an axis and the patient's axis; 0 if below
            half a degree.
        planes: The pictures to show.
    """

    shape: tuple[int, int, int]
    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    affine: NDArray[np.float64] | None
    normals: NDArray[np.float64] | None
    oblique: float
    planes: tuple[Plane, ...]

    def arrange(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return a view of stored values on this grid.

        Args:
            stored: ``[X, Y, Z]``, returned with its axes permuted and flipped; or a picture ``[H,
                W]`` or ``[H, W, 3]``, returned as ``[W, H, 1]`` or ``[W, H, 1, 3]``.
        """
        if self.planes is _PICTURE_PLANES:
            return stored.swapaxes(0, 1)[:, :, None]
        permuted = stored.transpose(self.order)
        return permuted[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]


def volume_grid(shape: tuple[int, ...], affine: NDArray[np.float64] | None) -> Grid:
    """Return the upright grid of a volume, whatever the order it is stored in.

    Oblique volumes are not resampled: each axis is named after the nearest axis of the patient.

    Args:
        shape: The stored extents.
        affine: From stored indices to RAS+ mm. None: the stored order is kept.

    Example:
        >>> grid = volume_grid((2, 3, 4), np.diag([-1.0, 1.0, 5.0, 1.0]))
        >>> grid.flipped, grid.spacing, grid.oblique
        ((True, False, False), (1.0, 1.0, 5.0), 0.0)
        >>> [plane.name for plane in grid.planes]
        ['Axial', 'Coronal', 'Sagittal']
    """
    if affine is None:
        x, y, z = shape
        return _unoriented_grid((x, y, z), _UNORIENTED_PLANES)
    from nibabel.orientations import io_orientation

    orientation = io_orientation(affine)  # for each stored axis: the patient's axis, and its sign
    order = [int(axis) for axis in np.argsort(orientation[:, 0])]
    flipped = [bool(orientation[axis, 1] < 0) for axis in order]
    to_stored = np.zeros((4, 4))
    to_stored[3, 3] = 1
    for axis, (stored_axis, flip) in enumerate(zip(order, flipped, strict=True)):
        to_stored[stored_axis, axis] = -1 if flip else 1
        to_stored[stored_axis, 3] = shape[stored_axis] - 1 if flip else 0
    grid_affine = affine @ to_stored
    spacing = np.linalg.norm(grid_affine[:3, :3], axis=0)
    axes = (grid_affine[:3, :3] / spacing).T
    normals = np.stack([np.cross(axes[(n + 1) % 3], axes[(n + 2) % 3]) for n in range(3)])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    tilt = float(np.degrees(np.arccos(np.diag(axes).clip(-1, 1).min())))
    x, y, z = (shape[stored_axis] for stored_axis in order)
    return Grid(
        shape=(x, y, z),
        order=(order[0], order[1], order[2]),
        flipped=(flipped[0], flipped[1], flipped[2]),
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        affine=grid_affine,
        normals=normals,
        oblique=tilt if tilt >= _MIN_OBLIQUE else 0.0,
        planes=_ANATOMICAL_PLANES,
    )


def stack_grid(shape: tuple[int, ...], affine: NDArray[np.float64] | None) -> Grid:
    """Return the grid of pictures that lie behind each other along the first axis.

    Args:
        shape: The extents ``[pictures, H, W]``.
        affine: As in `volume_grid`; the planes of the pictures come first.

    Example:
        >>> [plane.name for plane in stack_grid((4, 3, 2), None).planes]
        ['Pictures', 'Axes 1, 2', 'Axes 1, 3']
        >>> [plane.name for plane in stack_grid((4, 3, 2), np.eye(4)).planes]
        ['Sagittal', 'Axial', 'Coronal']
    """
    if affine is None:
        x, y, z = shape
        return _unoriented_grid((x, y, z), _STACK_PLANES)
    grid = volume_grid(shape, affine)
    planes = sorted(grid.planes, key=lambda plane: grid.order[plane.through] != 0)
    return replace(grid, planes=tuple(planes))


def picture_grid(shape: tuple[int, ...]) -> Grid:
    """Return the grid of a picture ``[H, W]``: columns, rows, one slice.

    Example:
        >>> picture_grid((2, 3)).shape
        (3, 2, 1)
    """
    height, width = shape
    return _unoriented_grid((width, height, 1), _PICTURE_PLANES)


def _unoriented_grid(shape: tuple[int, int, int], planes: tuple[Plane, ...]) -> Grid:
    """Return a grid in the stored order, with unknown orientation and spacing."""
    return Grid(shape, (0, 1, 2), (False, False, False), (1.0, 1.0, 1.0), None, None, 0.0, planes)
