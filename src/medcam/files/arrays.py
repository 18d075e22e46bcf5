"""Conversion of tensors, arrays and lists to NumPy, and the display maximum of a map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcam.errors import InputError, InputTypeError


def to_array(value: object, name: str) -> NDArray[Any]:
    """Return real numbers as a NumPy array on the CPU.

    The dtype is kept, except for bfloat16, which NumPy lacks: it becomes float32.

    Args:
        value: A tensor (also MONAI's MetaTensor), an array or nested lists.
        name: What the value is, as the subject of error messages, e.g. ``"The attention map"``.

    Raises:
        InputTypeError: The value holds no numbers, or complex ones.

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
        raise InputTypeError(f"{name} is {type(value).__name__}: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise InputTypeError(
            f"{name} is {type(value).__name__} of {array.dtype}; real numbers are needed: "
            "pass a torch tensor or a numpy array."
        )
    return array


def to_map(value: object, name: str = "The attention map") -> NDArray[np.float32]:
    """Return a map as float32 after checking that all its values are finite.

    Args:
        value: See `to_array`.
        name: See `to_array`.

    Raises:
        InputTypeError: The value holds no numbers.
        InputError: The map is empty, or has values that are NaN, infinite or too large for float32.

    Example:
        >>> to_map([[0, 1]])
        array([[0., 1.]], dtype=float32)
    """
    array = to_array(value, name)
    if not array.size:
        raise InputError(f"{name} is empty: its shape is {list(array.shape)}.")
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = array.astype(np.float32, copy=False)
    bad_count = values.size - int(np.isfinite(values).sum())
    if bad_count:
        raise InputError(
            f"{name} has {bad_count} of {values.size} values that are NaN, infinite or beyond "
            "float32: it cannot be saved or drawn. Find where the model's numbers stop being "
            "finite (half precision overflows above 65504)."
        )
    return values


def robust_max(values: NDArray[np.floating]) -> float:
    """Return the 99.9th percentile of the non-zero magnitudes; 0 for a map of zeros.

    It is the top of the colour scale. A percentile, so that a single outlier does not darken the
    rest of the map; without zeros, so that a small finding in a large empty map is not saturated.

    Example:
        >>> robust_max(np.array([0, 0, 0, -2, 2], np.float32))
        2.0
    """
    magnitudes = np.abs(values[values != 0])
    return float(np.percentile(magnitudes, 99.9)) if magnitudes.size else 0.0
