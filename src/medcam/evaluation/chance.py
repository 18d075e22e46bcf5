"""What a map scores that knows nothing of the mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def area_share(mask: Bool[np.ndarray, "*space"]) -> float:
    """Gives |M|/N: what a map scores whose values are shuffled at random over the voxels.

    Example:
        >>> area_share(np.array([[True, False, False, False]]))
        0.25
    """
    return float(mask.mean())


def near_share(
    mask: Bool[np.ndarray, "*space"],
    *,
    spacing: Sequence[float] | None = None,
    tolerance_mm: float = 0.0,
) -> float:
    """Gives the share of voxels within the tolerance of the mask: chance of the pointing game.

    Example:
        >>> near_share(np.array([[True, False, False, False]]), tolerance_mm=1.0)
        0.5
    """
    return area_share(near(mask, spacing, tolerance_mm)) if mask.any() else 0.0


def one_half(mask: Bool[np.ndarray, "*space"]) -> float:
    """Gives .5, whatever the mask: chance of the AUROC.

    Example:
        >>> one_half(np.array([[True, False]]))
        0.5
    """
    del mask
    return 0.5


def near(
    mask: Bool[np.ndarray, "*space"], spacing: Sequence[float] | None, tolerance_mm: float
) -> Bool[np.ndarray, "*space"]:
    """Gives the mask grown by a tolerance: every voxel whose centre is near one of the mask's.

    Example:
        >>> near(np.array([[True, False, False]]), (3.0, 0.5), 0.5).tolist()
        [[True, True, False]]
    """
    if tolerance_mm == 0:
        return mask
    from scipy.ndimage import distance_transform_edt  # costly to import

    distance = distance_transform_edt(~mask, sampling=spacing)
    near: Bool[np.ndarray, "*space"] = distance <= tolerance_mm * (1 + 1e-9)  # 3 · 0.1 > 0.3
    return near
