"""Anything array-like as numpy, and the one scale by which maps are displayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcam.errors import InputError, InputTypeError


def to_array(value: object, what: str) -> NDArray[Any]:
    """Gives real numbers as a numpy array of their own type (bfloat16: float32), on the CPU.

    Args:
        value: A tensor (MONAI's MetaTensor too), an array or nested lists.
        what: What it stands for, in the error, e.g. ``"The attention map"``.

    Raises:
        InputTypeError: Not numbers, or complex ones.

    Example:
        >>> to_array(torch.ones(2, dtype=torch.bfloat16), "The map")
        array([1., 1.], dtype=float32)
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach().as_subclass(torch.Tensor).cpu()
        value = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"{what} is {type(value).__name__}: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise InputTypeError(
            f"{what} is {type(value).__name__} of {array.dtype}; real numbers are needed: "
            "pass a torch tensor or a numpy array."
        )
    return array


def to_map(value: object, what: str = "The attention map") -> NDArray[np.float32]:
    """Gives a map as float32, and refuses one that would be written or drawn wrongly.

    Raises:
        InputTypeError: Not numbers.
        InputError: Empty, or NaN or infinity in it (also: too large for float32).

    Example:
        >>> to_map([[0, 1]])
        array([[0., 1.]], dtype=float32)
    """
    array = to_array(value, what)
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = array.astype(np.float32, copy=False)
    bad = values.size - int(np.isfinite(values).sum())
    if bad or not values.size:
        raise InputError(
            f"{what} has {bad} of {values.size} values that are NaN, infinite or beyond float32: "
            "there is nothing right to save or draw. Find where the model's numbers leave the "
            "finite range (half precision?)."
        )
    return values


def robust_max(values: NDArray[np.floating]) -> float:
    """Gives the 99.9th percentile of the non-zero magnitudes; 0 for a map of zeros.

    It is the top of the colour scale: a single outlier does not darken all the rest, and the large
    zero part of a small finding does not brighten it.

    Example:
        >>> robust_max(np.array([0, 0, 0, -2, 2], np.float32))
        2.0
    """
    magnitudes = np.abs(values[values != 0])
    return float(np.percentile(magnitudes, 99.9)) if magnitudes.size else 0.0
