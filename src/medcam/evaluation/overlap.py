"""Overlap of the attended region with the mask: ioa, wioa, iou, wiou, dice.

Notation: a is the map ``[*space]`` (finite, ≥ 0), â its min-max normalisation, B = {â ≥ τ} the
attended region, M the mask ``[*space]``, and |·| the number of voxels. NaN means "undefined". Every
metric is NaN for an empty mask, since a case without a finding has nothing to localise.
"""

from __future__ import annotations

from math import nan

import numpy as np
from jaxtyping import Bool, Float

from medcam.evaluation.thresholds import attended_region, normalize


def ioa(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    threshold: str | float = "otsu",
) -> float:
    """Return the intersection over attention, |B ∩ M| / |B|: the precision of B.

    From 0 to 1; NaN for an empty mask or a constant map. Source: M3d-CAM (arXiv 2007.00453).

    Example:
        >>> ioa(np.array([[0.0, 4.0], [2.0, 3.0]]), np.array([[0, 1], [1, 0]], bool), threshold=0.5)
        0.6666666666666666
    """
    _, region = attended_region(attention, threshold)
    if not mask.any() or not region.any():
        return nan
    return float(np.count_nonzero(region & mask) / np.count_nonzero(region))


def wioa(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    threshold: str | float = "otsu",
) -> float:
    """Return the weighted intersection over attention, Σ_{B∩M} â / Σ_B â.

    From 0 to 1; NaN for an empty mask or a constant map. Source: M3d-CAM (arXiv 2007.00453), where
    it is the default metric and scores 0 for an empty mask.

    Example:
        >>> mask = np.array([[0, 1], [1, 0]], bool)
        >>> wioa(np.array([[0.0, 4.0], [2.0, 3.0]]), mask, threshold=0.5)  # 1.5 / 2.25
        0.6666666666666666
    """
    normalized, region = attended_region(attention, threshold)
    if not mask.any() or not region.any():
        return nan
    return float(normalized[region & mask].sum() / normalized[region].sum())


def iou(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    threshold: str | float = "otsu",
) -> float:
    """Return the intersection over union (Jaccard index), |B ∩ M| / (|B| + |M| - |B ∩ M|).

    From 0 to 1; NaN for an empty mask; 0 for a constant map, whose B is empty.

    Example:
        >>> iou(np.array([[0.0, 4.0], [2.0, 3.0]]), np.array([[0, 1], [1, 0]], bool), threshold=0.5)
        0.6666666666666666
    """
    if not mask.any():
        return nan
    _, region = attended_region(attention, threshold)
    return float(np.count_nonzero(region & mask) / np.count_nonzero(region | mask))


def dice(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    threshold: str | float = "otsu",
) -> float:
    """Return the Dice coefficient, 2 |B ∩ M| / (|B| + |M|).

    From 0 to 1; NaN for an empty mask; 0 for a constant map, whose B is empty.

    Example:
        >>> mask = np.array([[0, 1], [1, 0]], bool)
        >>> dice(np.array([[0.0, 4.0], [2.0, 3.0]]), mask, threshold=0.5)  # 2 * 2 / (3 + 2)
        0.8
    """
    if not mask.any():
        return nan
    _, region = attended_region(attention, threshold)
    intersection = np.count_nonzero(region & mask)
    return float(2 * intersection / (np.count_nonzero(region) + np.count_nonzero(mask)))


def wiou(attention: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"]) -> float:
    """Return the soft Jaccard index, Σ min(â, M) / Σ max(â, M), which needs no threshold.

    From 0 to 1; NaN for an empty mask; 0 for a constant map. Also known as the Ružička or weighted
    Jaccard similarity. The "wiou" of the original M3d-CAM is a different formula, which its authors
    call wrong.

    Example:
        >>> wiou(np.array([[0.0, 4.0], [2.0, 3.0]]), np.array([[0, 1], [1, 0]], bool))  # 1.5 / 2.75
        0.5454545454545454
    """
    if not mask.any():
        return nan
    normalized = normalize(attention)
    return float(np.minimum(normalized, mask).sum() / np.maximum(normalized, mask).sum())
