"""From a map to its attended region: min-max normalisation and the threshold."""

from __future__ import annotations

from numbers import Real

import numpy as np
from jaxtyping import Bool, Float

from medcam.errors import InputError, InputTypeError

OTSU_BINS = 256
_ALLOWED = "Give 'otsu' or a number from 0 to 1."


def check_threshold(threshold: object) -> str | float:
    """Gives the threshold back, as ``'otsu'`` or a float from 0 to 1.

    Raises:
        InputError: Another string, or a number outside [0, 1].
        InputTypeError: Neither a string nor a number.

    Example:
        >>> check_threshold("otsu"), check_threshold(1)
        ('otsu', 1.0)
    """
    if isinstance(threshold, str):
        if threshold != "otsu":
            raise InputError(f"Threshold {threshold!r} does not exist. {_ALLOWED}")
        return threshold
    if isinstance(threshold, bool) or not isinstance(threshold, Real):
        raise InputTypeError(
            f"The threshold is a {type(threshold).__name__}: {threshold!r}. {_ALLOWED}"
        )
    if not 0.0 <= float(threshold) <= 1.0:
        raise InputError(
            f"Threshold {float(threshold):g} is outside the range of a normalised map. {_ALLOWED}"
        )
    return float(threshold)


def normalize(attention: Float[np.ndarray, "*space"]) -> Float[np.ndarray, "*space"]:
    """Gives the map stretched to [0, 1]: â = (a - min a) / (max a - min a).

    A constant map has no place to show: it becomes 0 everywhere, never NaN.

    Args:
        attention: One sample's map ``[*space]``, finite.

    Example:
        >>> normalize(np.array([[2.0, 4.0], [3.0, 2.0]])).tolist()
        [[0.0, 1.0], [0.5, 0.0]]
        >>> normalize(np.full((1, 2), 7.0)).tolist()
        [[0.0, 0.0]]
    """
    lowest, highest = attention.min(), attention.max()
    if lowest == highest:
        return np.zeros_like(attention)
    stretched: Float[np.ndarray, "*space"] = (attention - lowest) / (highest - lowest)
    return stretched


def cut(normalized: Float[np.ndarray, "*space"], threshold: str | float) -> float:
    """Gives τ, where a normalised map is cut.

    Otsu's τ is the centre of the bin, of 256 over the map's range, that parts the values into two
    classes of largest variance between them (Otsu, IEEE Trans. SMC 9, 1979; scikit-image): the last
    bin of the lower class, so that values in its upper half are still ≥ τ.

    Args:
        normalized: A map ``[*space]`` in [0, 1].
        threshold: ``'otsu'``, or τ itself.

    Example:
        >>> cut(np.array([0.0, 0.1, 0.9, 1.0]), 0.25)
        0.25
        >>> cut(np.array([0.0, 0.0, 0.9, 1.0]), "otsu")  # the middle of 256 bins' first
        0.001953125
    """
    if threshold != "otsu":
        return float(threshold)
    from skimage.filters import threshold_otsu  # costly to import

    # Flat, because scikit-image takes a last axis of 3 or 4 for colours and warns.
    return float(threshold_otsu(normalized.ravel(), nbins=OTSU_BINS))  # type: ignore[no-untyped-call] # it ships no types


def attended(
    attention: Float[np.ndarray, "*space"], threshold: str | float = "otsu"
) -> tuple[Float[np.ndarray, "*space"], Bool[np.ndarray, "*space"]]:
    """Gives the normalised map â and its attended region B = {â ≥ τ}.

    B is never empty, but for a constant map: that one points nowhere, so its B is empty at every τ.

    Args:
        attention: One sample's map ``[*space]``, finite and ≥ 0.
        threshold: ``'otsu'`` or τ from 0 to 1.

    Example:
        >>> normalized, region = attended(np.array([[0.0, 2.0], [5.0, 10.0]]), 0.5)
        >>> normalized.tolist(), region.tolist()
        ([[0.0, 0.2], [0.5, 1.0]], [[False, False], [True, True]])
    """
    normalized = normalize(attention)
    if not normalized.any():
        return normalized, np.zeros(normalized.shape, dtype=bool)
    return normalized, normalized >= cut(normalized, threshold)
