"""Where the largest values lie: pointing game, relevance mass and rank, AUROC, average precision.

In all of these a is the map ``[*space]`` (finite, ≥ 0), M the mask ``[*space]``, N the number of
voxels. No threshold is involved. Equal values are never ordered by their place in memory: all of
them count alike, in their share. NaN stands for "undefined".
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
from jaxtyping import Bool, Float, Int

from medcam.errors import InputError
from medcam.evaluation.chance import near


def pointing_game(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    spacing: Sequence[float] | None = None,
    tolerance_mm: float = 0.0,
) -> float:
    """Gives 1 if the largest value lies in the mask, or within a tolerance of it, else 0.

    With several equal maxima, the share of them that hits. NaN for an empty mask or a constant map.
    Source: Zhang et al., arXiv 1608.00507 (tolerance 15 pixels there).

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
    return float(near(mask, spacing, tolerance_mm)[attention == attention.max()].mean())


def relevance_mass(
    attention: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"]
) -> float:
    """Gives the share of all attention that lies in the mask, Σ_M a / Σ a, of the raw values.

    From 0 to 1, chance |M|/N; NaN for an empty mask or a constant map. Sources: Arras et al., arXiv
    2003.07258; as the energy-based pointing game, Wang et al., arXiv 1910.01279.

    Example:
        >>> relevance_mass(np.array([[1.0, 4.0], [2.0, 3.0]]), np.array([[0, 1], [1, 0]], bool))
        0.6
    """
    if not mask.any() or attention.min() == attention.max():
        return nan
    share = attention / attention.max()  # no overflow in the sums
    return float(share[mask].sum() / share.sum())


def relevance_rank(
    attention: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"]
) -> float:
    """Gives the share of the |M| largest values that lie in the mask.

    From 0 to 1, chance |M|/N; NaN for an empty mask or a constant map. Source: Arras et al.,
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
    """Gives the share of the k largest values that lie in the mask.

    From 0 to 1, chance |M|/N; NaN for an empty mask or a constant map. It is no entry of
    ``METRICS``, for k has no good default; as a metric, pass ``functools.partial(top_k, k=100)``.

    Raises:
        InputError: k is not between 1 and the number of voxels.

    Example:
        >>> top_k(np.array([[1.0, 4.0], [2.0, 3.0]]), np.array([[0, 1], [1, 0]], bool), k=1)
        1.0
    """
    if not 1 <= k <= attention.size:
        raise InputError(f"k is {k}: give a number from 1 to {attention.size}, that of the voxels.")
    if not mask.any() or attention.min() == attention.max():
        return nan
    last = np.partition(attention, attention.size - k, axis=None)[attention.size - k]
    above, tied = attention > last, attention == last
    hits = np.count_nonzero(mask[above]) + (k - np.count_nonzero(above)) * mask[tied].mean()
    return float(hits / k)


def auroc(attention: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"]) -> float:
    """Gives the area under the ROC curve of the map as a score for "this voxel is in M".

    P(a inside > a outside) + ½ P(a inside = a outside). From 0 to 1, chance and constant map .5;
    NaN for a mask that is empty or fills the image.

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
    """Gives Σ_n (R_n - R_{n-1}) P_n over the falling thresholds n: precision P at recall R.

    From 0 to 1, chance and constant map |M|/N; NaN for an empty mask. The area under the
    precision-recall curve by steps, as in scikit-learn; better than AUROC for a small finding.

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
    """Gives how many voxels inside and outside the mask have each value, in rising order."""
    _, which = np.unique(attention, return_inverse=True)
    which = which.ravel()  # NumPy 1 and 2 differ in its shape
    inside = np.bincount(which[mask.ravel()], minlength=int(which.max()) + 1)
    return inside, np.bincount(which) - inside
