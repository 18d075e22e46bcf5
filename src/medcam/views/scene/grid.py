"""How a volume stored in any order is laid out for the eye: right, anterior, superior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_OBLIQUE = 0.5  # degrees that are told; smaller tilts are rounding of the scanner's numbers


@dataclass(frozen=True)
class Plane:
    """One picture of the grid.

    Attributes:
        name: Its title.
        across: The axis that runs from the left of the screen to the right.
        down: The axis that runs from the top to the bottom.
        through: The axis that slices are counted along.
        mirrored: Whether ``across`` runs from right to left instead.
        raised: Whether ``down`` runs from the bottom to the top instead.
        shows: "overlay", "image" or "map".
    """

    name: str
    across: int
    down: int
    through: int
    mirrored: bool = False
    raised: bool = False
    shows: str = "overlay"


# Radiological: as if looking from the feet and at the face, the patient's right on the left.
_ANATOMICAL = (
    Plane("Axial", 0, 1, 2, mirrored=True, raised=True),
    Plane("Coronal", 0, 2, 1, mirrored=True, raised=True),
    Plane("Sagittal", 1, 2, 0, mirrored=True, raised=True),
)
_UNKNOWN = (
    Plane("Axes 1, 2", 0, 1, 2, raised=True),
    Plane("Axes 1, 3", 0, 2, 1, raised=True),
    Plane("Axes 2, 3", 1, 2, 0, raised=True),
)
_PICTURE = tuple(
    Plane(shows.title(), 0, 1, 2, shows=shows) for shows in ("image", "map", "overlay")
)


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid whose axes run to the patient's right, anterior and superior, as nearly as they can.

    Attributes:
        shape: The extents.
        order: Which stored axis runs along each.
        flipped: Whether it does so backwards.
        spacing: The distance between voxels along each, in mm; 1 where unknown.
        affine: From indices of this grid to RAS+ mm; None where unknown.
        normals: The unit normals of the slices along each axis; None where unknown.
        oblique: The largest angle between an axis and the body's, in degrees; 0 where not told.
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
        """Gives stored values on this grid, as a view; a picture as columns, rows, one slice."""
        if self.planes is _PICTURE:
            return stored.swapaxes(0, 1)[:, :, None]
        turned = stored.transpose(self.order)
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]


def volume_grid(shape: tuple[int, ...], affine: NDArray[np.float64] | None) -> Grid:
    """Gives the grid on which a volume stands upright, whatever the order it is stored in.

    Oblique volumes are not resampled: each axis is named after the body's axis nearest to it.

    Args:
        shape: The stored extents.
        affine: From stored indices to RAS+ mm; None keeps the stored order.

    Example:
        >>> grid = volume_grid((2, 3, 4), np.diag([-1.0, 1.0, 5.0, 1.0]))
        >>> grid.flipped, grid.spacing, grid.oblique
        ((True, False, False), (1.0, 1.0, 5.0), 0.0)
        >>> [plane.name for plane in grid.planes]
        ['Axial', 'Coronal', 'Sagittal']
    """
    if affine is None:
        x, y, z = shape
        return _plain((x, y, z), _UNKNOWN)
    from nibabel.orientations import io_orientation

    facing = io_orientation(affine)  # for each stored axis: the body's axis, and the direction
    order = [int(axis) for axis in np.argsort(facing[:, 0])]
    flipped = [bool(facing[axis, 1] < 0) for axis in order]
    to_stored = np.zeros((4, 4))
    to_stored[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flipped, strict=True)):
        to_stored[old, new] = -1 if flip else 1
        to_stored[old, 3] = shape[old] - 1 if flip else 0
    turned = affine @ to_stored
    spacing = np.linalg.norm(turned[:3, :3], axis=0)
    axes = (turned[:3, :3] / spacing).T
    normals = np.stack([np.cross(axes[(n + 1) % 3], axes[(n + 2) % 3]) for n in range(3)])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    tilt = float(np.degrees(np.arccos(np.diag(axes).clip(-1, 1).min())))
    x, y, z = (shape[axis] for axis in order)
    return Grid(
        shape=(x, y, z),
        order=(order[0], order[1], order[2]),
        flipped=(flipped[0], flipped[1], flipped[2]),
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        affine=turned,
        normals=normals,
        oblique=tilt if tilt >= _OBLIQUE else 0.0,
        planes=_ANATOMICAL,
    )


def picture_grid(shape: tuple[int, ...]) -> Grid:
    """Gives the grid of a picture ``[H, W]``: columns, rows, one slice.

    Example:
        >>> picture_grid((2, 3)).shape
        (3, 2, 1)
    """
    height, width = shape
    return _plain((width, height, 1), _PICTURE)


def _plain(shape: tuple[int, int, int], planes: tuple[Plane, ...]) -> Grid:
    return Grid(shape, (0, 1, 2), (False, False, False), (1.0, 1.0, 1.0), None, None, 0.0, planes)
