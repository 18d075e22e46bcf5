"""Distances in mm between the attended region and the mask: HD95, ASSD, centroid distance.

In all of these a is the map ``[*space]`` (finite, ≥ 0), B = {â ≥ τ} its attended region, M the mask
``[*space]``, both as sets of voxel centres. Empty mask or constant map (empty B): NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
from jaxtyping import Bool, Float

from medcam.evaluation.thresholds import attended


def hd95(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    threshold: str | float = "otsu",
    spacing: Sequence[float] | None = None,
) -> float:
    """Gives the 95 % Hausdorff distance in mm, the larger of the two directed 95th percentiles.

    max(P95_{b∈∂B} d(b, ∂M), P95_{m∈∂M} d(m, ∂B)), as MONAI: ∂ is what a binary erosion by the
    face-connected neighbours takes away; percentiles are interpolated linearly.

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
    _, region = attended(attention, threshold)
    if not mask.any() or not region.any():
        return nan
    there, back = _surface_distances(region, mask, spacing)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def assd(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    threshold: str | float = "otsu",
    spacing: Sequence[float] | None = None,
) -> float:
    """Gives the average symmetric surface distance in mm.

    (Σ_{b∈∂B} d(b, ∂M) + Σ_{m∈∂M} d(m, ∂B)) / (|∂B| + |∂M|). Arguments as in ``hd95``.

    Example:
        >>> mask = np.array([[True, False, False]])
        >>> assd(np.array([[0.0, 1.0, 1.0]]), mask)  # (1 + 2 + 1) / 3
        1.3333333333333333
    """
    _, region = attended(attention, threshold)
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
    """Gives the distance in mm between the centre of the attended region and that of the mask.

    ‖mean(B) - mean(M)‖, every voxel of a set counting the same. Arguments as in ``hd95``.

    Example:
        >>> mask = np.array([[True, False, False]])
        >>> centroid_distance(np.array([[0.0, 1.0, 1.0]]), mask, spacing=(1.0, 2.0))
        3.0
    """
    _, region = attended(attention, threshold)
    if not mask.any() or not region.any():
        return nan
    apart = _points(region, spacing).mean(axis=0) - _points(mask, spacing).mean(axis=0)
    return float(np.linalg.norm(apart))


def _points(
    region: Bool[np.ndarray, "*space"], spacing: Sequence[float] | None
) -> Float[np.ndarray, "voxels axes"]:
    """Gives the positions in mm of the voxels of a region."""
    sizes = np.ones(region.ndim) if spacing is None else np.asarray(spacing, dtype=float)
    points: Float[np.ndarray, "voxels axes"] = np.argwhere(region) * sizes
    return points


def _edge(region: Bool[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """Gives the voxels of a region with a face neighbour outside it, or at the image's border.

    Axes of one voxel have no neighbours: the edge of a volume of depth 1 is that of the 2D image.
    """
    from scipy.ndimage import binary_erosion  # costly to import

    flat = region.squeeze()
    edge: Bool[np.ndarray, "*space"] = (flat & ~binary_erosion(flat)).reshape(region.shape)
    return edge


def _surface_distances(
    region: Bool[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    spacing: Sequence[float] | None,
) -> tuple[Float[np.ndarray, " region_edge"], Float[np.ndarray, " mask_edge"]]:
    """Gives the distances in mm from each edge voxel of one set to the nearest of the other."""
    from scipy.spatial import KDTree  # costly to import

    ours, theirs = _points(_edge(region), spacing), _points(_edge(mask), spacing)
    there: Float[np.ndarray, " region_edge"] = KDTree(theirs).query(ours)[0]
    back: Float[np.ndarray, " mask_edge"] = KDTree(ours).query(theirs)[0]
    return there, back
