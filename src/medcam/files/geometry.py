"""Affines: 4x4 matrices from voxel indices to RAS+ millimetres."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError
from medcam.files.arrays import to_array

Affine = NDArray[np.float64]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS (nibabel) to LPS (ITK, DICOM) and back: the first two world axes are reversed."""

_MAX_COSINE = 1e-4  # axes whose directions have a smaller cosine count as perpendicular


def as_affine(value: object, name: str = "The reference's affine") -> Affine:
    """Return a validated affine as float64.

    Args:
        value: A 4x4 array, tensor or nested lists; also ``[1, 4, 4]``, as MONAI's collate function
            makes it.
        name: What the affine is, as the subject of error messages.

    Raises:
        InputError: The value is not 4x4, not finite or not invertible, or its last row is not
            0 0 0 1.
        InputTypeError: The value holds no numbers.

    Example:
        >>> as_affine(np.diag([2, 2, 5, 1]))[2].tolist()
        [0.0, 0.0, 5.0, 0.0]
    """
    affine = to_array(value, name).astype(np.float64)
    if affine.shape == (1, 4, 4):
        affine = affine[0]
    if affine.shape != (4, 4):
        raise InputError(
            f"An affine is 4x4, not {list(affine.shape)}: pass the affine of this one image "
            "(of a batch: that of the sample)."
        )
    is_homogeneous = bool(np.isfinite(affine).all()) and bool((affine[3] == (0, 0, 0, 1)).all())
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    # `not >` instead of `<=`: a determinant of NaN must fail, too
    if not is_homogeneous or not abs(np.linalg.det(affine[:3, :3])) > 1e-6 * spacing.prod():
        raise InputError(
            f"{name} cannot place voxels: it must be finite and invertible with the "
            f"last row 0 0 0 1, and is {affine.tolist()}."
        )
    return affine


def affine_of(source: object) -> object:
    """Return the affine that an image object carries, to RAS+ mm; None if it carries none.

    Args:
        source: A nibabel image, MONAI's MetaTensor, or any object with an ``affine``. An affine of
            a MetaTensor whose ``meta["space"]`` is LPS (ITK's readers) is converted to RAS.

    Example:
        >>> from types import SimpleNamespace
        >>> lps = SimpleNamespace(affine=np.diag([-1.0, -1, 2, 1]), meta={"space": "LPS"})
        >>> np.diag(affine_of(lps)).tolist()
        [1.0, 1.0, 2.0, 1.0]
    """
    affine: object = getattr(source, "affine", None)
    meta = getattr(source, "meta", None)
    space = meta.get("space") if isinstance(meta, Mapping) else None
    spaces = space if isinstance(space, list | tuple) else [space]  # a collated batch has a list
    if affine is None or not all(_is_lps(name) for name in spaces):
        return affine
    matrix = to_array(affine, "The image's affine").astype(np.float64)
    axes = matrix.shape[-1] - 1
    return np.diag([*np.diag(LPS)[:axes], 1.0]) @ matrix


def _is_lps(space: object) -> bool:
    """Return whether a world's name is LPS: a string, or MONAI's ``SpaceKeys.LPS``."""
    return str(getattr(space, "value", space)).upper() == "LPS"


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Return the voxel's extents in mm along the axes of the array.

    Example:
        >>> spacing_of(np.diag([0.5, -0.5, 3.0, 1.0]))
        (0.5, 0.5, 3.0)
    """
    x, y, z = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def is_sheared(affine: Affine) -> bool:
    """Return whether the voxel axes are not perpendicular.

    A sheared affine cannot be written as a rotation and voxel sizes.

    Example:
        >>> is_sheared(np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
        True
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(directions.T @ directions, np.eye(3), atol=_MAX_COSINE)


def max_voxel_distance(first: Affine, second: Affine, space: Sequence[int]) -> float:
    """Return the largest distance, in mm, between the positions of a voxel under two affines.

    The distance is convex in the voxel index, so its maximum over a grid is at a corner.

    Args:
        first: The first affine.
        second: The second affine.
        space: The spatial shape of the grid; missing axes have one voxel.

    Example:
        >>> max_voxel_distance(np.eye(4), np.diag([1, 1, 1.5, 1]), (4, 4, 3))
        1.0
    """
    ends = [(0, extent - 1) for extent in (*space, 1, 1)[:3]]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)], np.float64)
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())
