"""Whatever the caller has, as a float64 map and a boolean mask on one grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from medcam.errors import InputError, InputTypeError, MaskError, warn
from medcam.maps import resample_array

_MOST_AXES = 3  # that maps are resampled along
_ROUNDING = 4  # steps: more than linear resizing of a constant makes (3 at most)
_ALIKE = (0.6, 1.7)  # ratios between these are of no coarser grid
_SHOWN = 6  # values of a wrong mask that its error names


def read_map(value: Any) -> Float[np.ndarray, "*space"]:
    """Gives a map as float64 ``[*space]``; a rounded constant becomes an exact one.

    Raises:
        InputTypeError: Not real numbers.
        InputError: Empty, or NaN or infinity in it.

    Example:
        >>> read_map(torch.ones(2, dtype=torch.bfloat16))
        array([1., 1.])
    """
    given = _to_numpy(value, "attention map")
    values: Float[np.ndarray, "*space"] = given.astype(np.float64)  # always a copy
    if not values.ndim or not values.size:
        raise InputError(f"The attention map has no voxels: its shape is {values.shape}.")
    if bad := values.size - int(np.isfinite(values).sum()):
        raise InputError(
            f"{bad} of the {values.size} values of the attention map are NaN or infinite; such a "
            "map cannot be scored. Look for an overflow in the model, e.g. run it in float32."
        )
    step = min(_step(value), float(np.finfo(np.float32).eps))
    if np.ptp(values) <= _ROUNDING * step * np.abs(values).max():
        values[...] = values.flat[0]
    return values


def read_mask(value: Any) -> Bool[np.ndarray, "*space"]:
    """Gives a mask as bool ``[*space]``.

    Raises:
        InputTypeError: Not real numbers.
        MaskError: Empty, or with other values than 0 and 1.

    Example:
        >>> read_mask([0.0, 1.0])
        array([False,  True])
    """
    values = _to_numpy(value, "mask")
    if not values.ndim or not values.size:
        raise MaskError(f"The mask has no voxels: its shape is {values.shape}.")
    if not np.isin(values, (0, 1)).all():
        found = np.unique(values)
        shown = ", ".join(f"{number:g}" for number in found[:_SHOWN])
        raise MaskError(
            f"The mask must hold 0 and 1 only, or be boolean; this one ({values.dtype}) holds "
            f"{shown}{', …' if found.size > _SHOWN else ''}. Choose one label with "
            "`mask == label`, or cut a soft mask with `mask > 0.5`."
        )
    return values.astype(bool)  # always a copy


def same_rank(
    attention: Float[np.ndarray, "..."],
    mask: Bool[np.ndarray, "..."],
    spacing: tuple[float, ...] | None,
) -> tuple[Float[np.ndarray, "..."], Bool[np.ndarray, "..."]]:
    """Gives both without the leading axes of size 1 that are a batch or a channel.

    They go until the ranks agree, then, from both, until the spacing fits, or no more than three
    axes are left.

    Raises:
        MaskError: The ranks differ all the same.
        InputError: The spacing has another number of axes.

    Example:
        >>> a, m = same_rank(np.zeros((1, 1, 4, 5)), np.zeros((8, 10), bool), None)
        >>> a.shape, m.shape
        ((4, 5), (8, 10))
    """
    shapes = f"the attention map has {attention.shape}, the mask {mask.shape}"
    while attention.ndim > mask.ndim and attention.shape[0] == 1:
        attention = attention[0]
    while mask.ndim > attention.ndim and mask.shape[0] == 1:
        mask = mask[0]
    if attention.ndim != mask.ndim:
        raise MaskError(
            f"Map and mask differ in their number of axes: {shapes}. Give one sample of each, "
            "without batch and channel axes."
        )
    axes = 3 if spacing is None else len(spacing)
    while mask.ndim > axes and attention.shape[0] == mask.shape[0] == 1:
        attention, mask = attention[0], mask[0]
    if spacing is not None and mask.ndim != axes:
        raise InputError(
            f"spacing has {axes} values, {spacing}, but the mask {mask.ndim} axes, {mask.shape}: "
            "give one number of mm per axis."
        )
    return attention, mask


def on_mask_grid(
    attention: Float[np.ndarray, "*space"], shape: tuple[int, ...]
) -> Float[np.ndarray, "*grid"]:
    """Return the map on the grid of its mask, resampled by `medcam.maps.resample`.

    Raises:
        MaskError: More than three axes, and another size; or the same extents in another order.

    Example:
        >>> on_mask_grid(np.array([0.0, 1.0]), (4,)).tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    if attention.shape == shape:
        return attention
    if sorted(attention.shape) == sorted(shape):
        raise MaskError(
            f"The attention map has shape {attention.shape}, the mask {shape}: the same extents in "
            "another order. Transpose one of them (SimpleITK's arrays are z, y, x)."
        )
    if attention.ndim > _MOST_AXES:
        raise MaskError(
            f"The attention map has shape {attention.shape}, the mask {shape}: with more than "
            "three axes they must be equal. Give one sample of each, without batch and channel "
            "axes."
        )
    if any(_unlike(*extents) for extents in zip(attention.shape, shape, strict=True)):
        warn(
            f"The attention map has shape {attention.shape}, the mask {shape}: the map was "
            "stretched to the mask, as if both showed the same ground. If one of them is padded or "
            "cropped, the score is wrong: cut them to one grid."
        )
    if attention.min() == attention.max():  # exactly so afterwards, too
        return np.full(shape, attention.flat[0])
    return resample_array(attention, shape)


def _unlike(own: int, wanted: int) -> bool:
    """Whether two extents are neither the same nor one of a coarser grid of the same image."""
    low, high = _ALIKE
    return low < wanted / own < high and abs(wanted - own) > 1


def _to_numpy(value: Any, what: str) -> np.ndarray:
    """Gives real numbers as an array of their own type (bfloat16: float32)."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        value = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"The {what} is a {type(value).__name__}: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise InputTypeError(
            f"The {what} is a {type(value).__name__} of {array.dtype}: give an array or a tensor "
            "of real numbers."
        )
    return array


def _step(value: Any) -> float:
    """Gives the rounding step of the value's type, relative to the value."""
    if isinstance(value, torch.Tensor):
        return torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    dtype = np.asarray(value).dtype
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0
