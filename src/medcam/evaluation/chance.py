"""Chance levels: the expected score of a map that does not depend on the mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def area_share(mask: Bool[np.ndarray, "*space"]) -> float:
    """Return |M|/N: the expected score of a map whose values are shuffled over the voxels.

    Example:
        >>> area_share(np.array([[True, False, False, False]]))
        0.25
    """
    return float(mask.mean())


def grown_area_share(
    mask: Bool[np.ndarray, "*space"],
    *,
    spacing: Sequence[float] | None = None,
    tolerance_mm: float = 0.0,
) -> float:
    """Return the share of voxels within the tolerance: the chance level of the pointing game.

    Example:
        >>> grown_area_share(np.array([[True, False, False, False]]), tolerance_mm=1.0)
        0.5
    """
    return area_share(grow_mask(mask, spacing, tolerance_mm)) if mask.any() else 0.0


def one_half(mask: Bool[np.ndarray, "*space"]) -> float:
    """Return 0.5 for every mask: the chance level of the AUROC.

    Example:
        >>> one_half(np.array([[True, False]]))
        0.5
    """
    del mask
    return 0.5


def below_chance(score: float, chance: float | None) -> bool:
    """Return whether a score is lower than that of a map that knows nothing of the mask.

    Example:
        >>> below_chance(0.001, 0.014), below_chance(0.5, 0.5), below_chance(float("nan"), 0.5)
        (True, False, False)
    """
    return chance is not None and score < chance


def below_chance_message(what: str, metric: str, score: float, chance: float) -> str:
    """Return the warning about a map that scores below chance.

    Args:
        what: The map, e.g. "Grad-CAM of layer 'layer4'".
        metric: The title of the metric.
        score: The score.
        chance: The chance level.
    """
    return (
        f"{what} scores below chance: {metric} {score:.3g}, where a map that knows nothing of the "
        f"mask has {chance:.3g}. It points elsewhere; it may still be right about the model. "
        "Compare with method='hirescam', or see docs/how-to/trust.md."
    )


def grow_mask(
    mask: Bool[np.ndarray, "*space"], spacing: Sequence[float] | None, tolerance_mm: float
) -> Bool[np.ndarray, "*space"]:
    """Return the mask grown by a tolerance: all voxels whose centre is that near to one of its own.

    Example:
        >>> grow_mask(np.array([[True, False, False]]), (3.0, 0.5), 0.5).tolist()
        [[True, True, False]]
    """
    if tolerance_mm == 0:
        return mask
    from scipy.ndimage import distance_transform_edt  # costly to import

    distance = distance_transform_edt(~mask, sampling=spacing)
    # The bound is inclusive; the margin covers rounding: in floating point, 3 · 0.1 > 0.3.
    grown: Bool[np.ndarray, "*space"] = distance <= tolerance_mm * (1 + 1e-9)
    return grown
