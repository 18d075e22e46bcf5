"""Metrics without a threshold: pointing game, relevance mass, rank, AUROC, average precision.

Notation: a is the map ``[*space]`` (finite, ≥ 0), M the mask ``[*space]``, and N the number of
voxels. Ties do not depend on the order of the voxels in memory:
each of the tied voxels counts with the same weight. NaN means "undefined".
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
from jaxtyping import Bool, Float, Int

from medcam.errors import InputError
from medcam.evaluation.chance import grow_mask


def pointing_game(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    spacing: Sequence[float] | None = None,
    tolerance_mm: float = 0.0,
) -> float:
    """Return 1 if the largest value lies in the mask, or within a tolerance of it, else 0.

    If several maxima are equal, return the share of them that hits. NaN for an empty mask or a
    constant map. Source: Zhang et al., arXiv 1608.00507, who use a tolerance of 15 pixels.

    Args:
        attention: Map ``[*space]``.
        mask: Mask ``[*space]``.
        spacing: Voxel size in mm along each axis; 1 mm by default.
        tolerance_mm: Largest distance between the centres of the maximum and of a mask voxel.

    Example:
        >>> mask = np.array([[True, False, False]])
        >>> pointing_game(np.array([[0.0, 0.0, 1.0]]), mask)
        0.0
        >>> pointing_game(np.array([[0.0, 0.0, 1.0]]), mask, spacing=(3.0, 0.5), tolerance_mm=1.0)
        1.0
    """
    if not mask.any() or attention.min() == attention.max():
        return nan
    return float(grow_mask(mask, spacing, tolerance_mm)[attention == attention.max()].mean())


def relevance_mass(
    attention: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"]
) -> float:
    """Return the share of the attention that lies in the mask, Σ_M a / Σ a, of raw values.

    From 0 to 1, chance level |M|/N; NaN for an empty mask or a constant map. Sources: Arras et al.,
    arXiv 2003.07258; Wang et al., arXiv 1910.01279, call it the energy-based pointing game.

    Example:
        >>> relevance_mass(np.array([[1.0, 4.0], [2.0, 3.0]]), np.array([[0, 1], [1, 0]], bool))
        0.6
    """
    if not mask.any() or attention.min() == attention.max():
        return nan
    scaled = attention / attention.max()  # so that the sums cannot overflow
    return float(scaled[mask].sum() / scaled.sum())


def relevance_rank(
    attention: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"]
) -> float:
    """Return the share of the |M| largest values that lie in the mask.

    From 0 to 1, chance level |M|/N; NaN for an empty mask or a constant map. Source: Arras et al.,
    arXiv 2003.07258.

    Example:
        >>> relevance_rank(np.array([[1.0, 4.0], [2.0, 3.0]]), np.array([[0, 1], [1, 0]], bool))
        0.5
    """
    size = int(np.count_nonzero(mask))
    return top_k(attention, mask, k=size) if size else nan


def top_k(
    attention: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"], *, k: int
) -> float:
    """Return the share of the k largest values that lie in the mask.

    From 0 to 1, chance level |M|/N; NaN for an empty mask or a constant map. It is not part of
    ``METRICS`` because k has no good default. Pass ``functools.partial(top_k, k=100)`` as a metric.

    Raises:
        InputError: k is not between 1 and the number of voxels.

    Example:
        >>> top_k(np.array([[1.0, 4.0], [2.0, 3.0]]), np.array([[0, 1], [1, 0]], bool), k=1)
        1.0
    """
    if not 1 <= k <= attention.size:
        raise InputError(f"k is {k}: give a number from 1 to {attention.size} (the voxels).")
    if not mask.any() or attention.min() == attention.max():
        return nan
    kth_largest = np.partition(attention, attention.size - k, axis=None)[attention.size - k]
    above, tied = attention > kth_largest, attention == kth_largest
    hits = np.count_nonzero(mask[above]) + (k - np.count_nonzero(above)) * mask[tied].mean()
    return float(hits / k)


def auroc(attention: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"]) -> float:
    """Return the area under the ROC curve, with a as the score for "this voxel is in M".

    P(a inside > a outside) + ½ P(a inside = a outside). From 0 to 1; 0.5 by chance and for a
    constant map; NaN for a mask that is empty or fills the image.

    Example:
        >>> auroc(np.array([[1.0, 4.0], [2.0, 3.0]]), np.array([[0, 1], [1, 0]], bool))
        0.75
    """
    inside, outside = _counts_by_value(attention, mask)
    if not inside.any() or not outside.any():
        return nan
    below = np.cumsum(outside) - outside
    return float((inside * (below + outside / 2)).sum() / (inside.sum() * outside.sum()))


def average_precision(
    attention: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"]
) -> float:
    """Return the average precision, Σ_n (R_n - R_{n-1}) P_n over the falling thresholds n.

    P is the precision and R the recall of {a ≥ threshold}. From 0 to 1; |M|/N by chance and for a
    constant map; NaN for an empty mask. This is the area under the precision-recall curve without
    interpolation, as in scikit-learn. For a small finding it says more than the AUROC.

    Example:
        >>> average_precision(np.array([[1.0, 4.0], [2.0, 3.0]]), np.array([[0, 1], [1, 0]], bool))
        0.8333333333333333
    """
    inside, outside = (counts[::-1] for counts in _counts_by_value(attention, mask))
    if not inside.any():
        return nan
    precision = np.cumsum(inside) / np.cumsum(inside + outside)
    return float((inside * precision).sum() / inside.sum())


def _counts_by_value(
    attention: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"]
) -> tuple[Int[np.ndarray, " values"], Int[np.ndarray, " values"]]:
    """Return how many voxels inside and outside the mask have each value, in ascending order."""
    _, value_indices = np.unique(attention, return_inverse=True)
    value_indices = value_indices.ravel()  # NumPy 1 and 2 return different shapes
    inside = np.bincount(value_indices[mask.ravel()], minlength=int(value_indices.max()) + 1)
    return inside, np.bincount(value_indices) - inside
