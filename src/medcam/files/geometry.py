"""Where voxels lie: affines from voxel indices to RAS+ millimetres."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError
from medcam.files.arrays import to_array

Affine = NDArray[np.float64]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS (nibabel) to LPS (ITK, DICOM), and back: the first two world axes are reversed."""

_RIGHT_ANGLE = 1e-4  # the cosine up to which two axes count as perpendicular


def as_affine(given: object, what: str = "The reference's affine") -> Affine:
    """Gives an affine that can place voxels, as float64.

    Args:
        given: 4x4, or a batch of one as MONAI's collate makes it; an array, tensor or lists.
        what: What it is, in the error.

    Raises:
        InputError: Not 4x4, not finite, not invertible, or with another last row than 0 0 0 1.
        InputTypeError: Not numbers.

    Example:
        >>> as_affine(np.diag([2, 2, 5, 1]))[2].tolist()
        [0.0, 0.0, 5.0, 0.0]
    """
    affine = to_array(given, what).astype(np.float64)
    if affine.shape == (1, 4, 4):
        affine = affine[0]
    if affine.shape != (4, 4):
        raise InputError(
            f"An affine is 4x4, not {list(affine.shape)}: pass the affine of this one image "
            "(of a batch: that of the sample)."
        )
    usual = bool(np.isfinite(affine).all()) and bool((affine[3] == (0, 0, 0, 1)).all())
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not usual or not abs(np.linalg.det(affine[:3, :3])) > 1e-6 * spacing.prod():
        raise InputError(
            f"{what} cannot place voxels: it must be finite and invertible with the "
            f"last row 0 0 0 1, and is {affine.tolist()}."
        )
    return affine


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """The voxel's extents in mm along the axes of the array.

    Example:
        >>> spacing_of(np.diag([0.5, -0.5, 3.0, 1.0]))
        (0.5, 0.5, 3.0)
    """
    x, y, z = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def is_sheared(affine: Affine) -> bool:
    """Whether the axes are not perpendicular, so that no rotation and voxel size describe them.

    Example:
        >>> is_sheared(np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
        True
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(directions.T @ directions, np.eye(3), atol=_RIGHT_ANGLE)


def furthest_apart(first: Affine, second: Affine, space: Sequence[int]) -> float:
    """How far the same voxel lies apart under two affines, in mm: the most, which is at a corner.

    Args:
        first: One affine.
        second: The other.
        space: The extents of the grid; missing axes have one voxel.

    Example:
        >>> furthest_apart(np.eye(4), np.diag([1, 1, 1.5, 1]), (4, 4, 3))
        1.0
    """
    ends = [(0, extent - 1) for extent in (*space, 1, 1)[:3]]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)], np.float64)
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())
