"""Distances in mm between the attended region and the mask: HD95, ASSD, centroid distance.

Notation: a is the map ``[*space]`` (finite, ≥ 0), B = {â ≥ τ} its attended region, and M the mask
``[*space]``; B and M are sets of voxel centres. All distances are NaN for an empty mask or a
constant map, whose B is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
from jaxtyping import Bool, Float

from medcam.evaluation.thresholds import attended_region


def hd95(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    threshold: str | float = "otsu",
    spacing: Sequence[float] | None = None,
) -> float:
    """Return the 95 % Hausdorff distance in mm, the larger of the two directed 95th percentiles.

    max(P95_{b∈∂B} d(b, ∂M), P95_{m∈∂M} d(m, ∂B)), as in MONAI: the surface ∂ is what a binary
    erosion with the face-connected neighbourhood removes; percentiles are interpolated linearly.

    Args:
        attention: Map ``[*space]``.
        mask: Mask ``[*space]``.
        threshold: ``'otsu'`` or τ from 0 to 1.
        spacing: Voxel size in mm along each axis; 1 mm by default.

    Example:
        >>> mask = np.array([[True, False, False]])
        >>> hd95(np.array([[0.0, 0.0, 1.0]]), mask, spacing=(3.0, 0.5))
        1.0
    """
    _, region = attended_region(attention, threshold)
    if not mask.any() or not region.any():
        return nan
    from_region, from_mask = _surface_distances(region, mask, spacing)
    return float(max(np.percentile(from_region, 95), np.percentile(from_mask, 95)))


def assd(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    threshold: str | float = "otsu",
    spacing: Sequence[float] | None = None,
) -> float:
    """Return the average symmetric surface distance in mm.

    (Σ_{b∈∂B} d(b, ∂M) + Σ_{m∈∂M} d(m, ∂B)) / (|∂B| + |∂M|). Arguments as in `hd95`.

    Example:
        >>> mask = np.array([[True, False, False]])
        >>> assd(np.array([[0.0, 1.0, 1.0]]), mask)  # (1 + 2 + 1) / 3
        1.3333333333333333
    """
    _, region = attended_region(attention, threshold)
    if not mask.any() or not region.any():
        return nan
    return float(np.concatenate(_surface_distances(region, mask, spacing)).mean())


def centroid_distance(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    threshold: str | float = "otsu",
    spacing: Sequence[float] | None = None,
) -> float:
    """Return the distance in mm between the centroids of the attended region and of the mask.

    ‖mean(B) - mean(M)‖; every voxel of a set has the same weight. Arguments as in `hd95`.

    Example:
        >>> mask = np.array([[True, False, False]])
        >>> centroid_distance(np.array([[0.0, 1.0, 1.0]]), mask, spacing=(1.0, 2.0))
        3.0
    """
    _, region = attended_region(attention, threshold)
    if not mask.any() or not region.any():
        return nan
    difference = _positions(region, spacing).mean(axis=0) - _positions(mask, spacing).mean(axis=0)
    return float(np.linalg.norm(difference))


def _positions(
    region: Bool[np.ndarray, "*space"], spacing: Sequence[float] | None
) -> Float[np.ndarray, "voxels axes"]:
    """Return the positions of a region's voxels in mm."""
    voxel_size = np.ones(region.ndim) if spacing is None else np.asarray(spacing, dtype=float)
    positions: Float[np.ndarray, "voxels axes"] = np.argwhere(region) * voxel_size
    return positions


def _surface(region: Bool[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """Return the voxels of a region with a face neighbour outside it, or at the image's border.

    Axes of one voxel have no neighbours: a volume of depth 1 has the surface of its 2D image.
    """
    from scipy.ndimage import binary_erosion  # costly to import

    squeezed = region.squeeze()
    surface: Bool[np.ndarray, "*space"] = squeezed & ~binary_erosion(squeezed)
    return surface.reshape(region.shape)


def _surface_distances(
    region: Bool[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    spacing: Sequence[float] | None,
) -> tuple[Float[np.ndarray, " region_surface"], Float[np.ndarray, " mask_surface"]]:
    """Return the distances in mm from each surface voxel of one set to the nearest of the other."""
    from scipy.spatial import KDTree  # costly to import

    region_surface = _positions(_surface(region), spacing)
    mask_surface = _positions(_surface(mask), spacing)
    from_region, _ = KDTree(mask_surface).query(region_surface)
    from_mask, _ = KDTree(region_surface).query(mask_surface)
    return from_region, from_mask
