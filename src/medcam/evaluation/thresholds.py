"""The attended region of a map: min-max normalisation and the threshold."""

from __future__ import annotations

from numbers import Real

import numpy as np
from jaxtyping import Bool, Float

from medcam.errors import InputError, InputTypeError

OTSU_BINS = 256
_ALLOWED = "Give 'otsu' or a number from 0 to 1."


def check_threshold(threshold: object) -> str | float:
    """Validate a threshold and return it as ``'otsu'`` or a float from 0 to 1.

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
    """Return the map rescaled to [0, 1]: â = (a - min a) / (max a - min a).

    A constant map becomes 0 everywhere instead of NaN: it singles out no voxel.

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
    normalized: Float[np.ndarray, "*space"] = (attention - lowest) / (highest - lowest)
    return normalized


def threshold_value(normalized: Float[np.ndarray, "*space"], threshold: str | float) -> float:
    """Return the threshold τ as a number.

    Otsu's τ splits a histogram of 256 bins over the map's range into the two classes with the
    largest variance between them (Otsu, IEEE Trans. SMC 9, 1979). As in scikit-image, τ is the
    centre of the lower class's last bin; values in the upper half of that bin are ≥ τ.

    Args:
        normalized: A map ``[*space]`` in [0, 1].
        threshold: ``'otsu'``, or τ itself.

    Example:
        >>> threshold_value(np.array([0.0, 0.1, 0.9, 1.0]), 0.25)
        0.25
        >>> threshold_value(np.array([0.0, 0.0, 0.9, 1.0]), "otsu")  # centre of the first bin
        0.001953125
    """
    if threshold != "otsu":
        return float(threshold)
    from skimage.filters import threshold_otsu  # costly to import

    # Flat, because scikit-image reads a last axis of 3 or 4 as colours and warns.
    return float(threshold_otsu(normalized.ravel(), nbins=OTSU_BINS))  # type: ignore[no-untyped-call] # it ships no types


def attended_region(
    attention: Float[np.ndarray, "*space"], threshold: str | float = "otsu"
) -> tuple[Float[np.ndarray, "*space"], Bool[np.ndarray, "*space"]]:
    """Return the normalised map â and its attended region B = {â ≥ τ}.

    B is empty for a constant map, at every τ, and for no other map.

    Args:
        attention: One sample's map ``[*space]``, finite and ≥ 0.
        threshold: ``'otsu'`` or τ from 0 to 1.

    Example:
        >>> normalized, region = attended_region(np.array([[0.0, 2.0], [5.0, 10.0]]), 0.5)
        >>> normalized.tolist(), region.tolist()
        ([[0.0, 0.2], [0.5, 1.0]], [[False, False], [True, True]])
    """
    normalized = normalize(attention)
    if not normalized.any():
        return normalized, np.zeros(normalized.shape, dtype=bool)
    return normalized, normalized >= threshold_value(normalized, threshold)
