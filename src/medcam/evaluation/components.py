"""Lesions: the connected components of a mask, with their sizes in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from medcam.errors import InputError
from medcam.evaluation.inputs import mask_array
from medcam.evaluation.score import check_options


@dataclass(frozen=True)
class Lesion:
    """One connected component of a mask.

    Attributes:
        number: Its number in the mask, from 1; the largest lesion is number 1.
        voxels: The number of its voxels.
        diameter_mm: The diameter of the ball (in 2D: the circle) of equal volume.
        labels: The numbers of all lesions of the mask, 0 elsewhere, ``[*space]``.
    """

    number: int
    voxels: int
    diameter_mm: float
    labels: Int[np.ndarray, "*space"] = field(repr=False, compare=False)

    @property
    def mask(self) -> Bool[np.ndarray, "*space"]:
        """The voxels of this lesion, bool ``[*space]``."""
        mask: Bool[np.ndarray, "*space"] = self.labels == self.number
        return mask

    @property
    def others(self) -> Bool[np.ndarray, "*space"]:
        """The voxels of all other lesions of the mask, bool ``[*space]``."""
        others: Bool[np.ndarray, "*space"] = (self.labels != 0) & (self.labels != self.number)
        return others


def lesions(mask: Any, *, spacing: Sequence[float] | None = None) -> list[Lesion]:
    """Return the connected components of a mask, the largest first.

    Voxels that share a face, an edge or a corner are connected. Components of equal size are in the
    order of their first voxels. Axes of one voxel do not count: a volume of depth 1 has the circles
    of its 2D image.

    Args:
        mask: Array or tensor ``[*space]`` of 0 and 1, of any dtype: 1 where a lesion is.
        spacing: Voxel size in mm along each axis; 1 mm each by default.

    Raises:
        MaskError: The mask has no voxels or holds other values than 0 and 1.
        InputError: The spacing is out of range, or not one number per axis.
        InputTypeError: An argument is of a type that cannot be used.

    Example:
        >>> mask = np.array([[1, 0, 0, 1], [0, 0, 0, 1]])
        >>> for lesion in lesions(mask, spacing=(0.5, 2.0)):
        ...     print(lesion.number, lesion.voxels, round(lesion.diameter_mm, 3))
        1 2 1.596
        2 1 1.128
    """
    truth = mask_array(mask)
    voxel_size = check_options("otsu", spacing, 0.0).spacing
    if voxel_size is not None and len(voxel_size) != truth.ndim:
        raise InputError(
            f"spacing has {len(voxel_size)} values, {voxel_size}, but the mask {truth.ndim} axes, "
            f"{truth.shape}: give one number of mm per axis."
        )
    return connected_components(truth, voxel_size)


def connected_components(
    mask: Bool[np.ndarray, "*space"], spacing: Sequence[float] | None
) -> list[Lesion]:
    """Return the lesions of a mask that is an array already, as `lesions` does."""
    from scipy.ndimage import label  # costly to import

    numbered, count = label(mask, np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    new_numbers = np.zeros(count + 1, dtype=numbered.dtype)
    new_numbers[1 + order] = np.arange(1, count + 1)
    labels = new_numbers[numbered]
    return [
        Lesion(number, voxels, _diameter(voxels, mask, spacing), labels)
        for number, voxels in enumerate(sizes[order].tolist(), start=1)
    ]


def _diameter(
    voxels: int, mask: Bool[np.ndarray, "*space"], spacing: Sequence[float] | None
) -> float:
    """Return the diameter in mm of the ball of equal volume, in the axes of several voxels.

    In n axes, the ball of radius r has the volume π^(n/2) r^n / Γ(n/2 + 1).
    """
    voxel_size = [1.0] * mask.ndim if spacing is None else spacing
    sides = [size for size, extent in zip(voxel_size, mask.shape, strict=True) if extent > 1]
    sides = sides or list(voxel_size)
    unit_ball = math.pi ** (len(sides) / 2) / math.gamma(len(sides) / 2 + 1)
    return float(2 * (voxels * math.prod(sides) / unit_ball) ** (1 / len(sides)))
