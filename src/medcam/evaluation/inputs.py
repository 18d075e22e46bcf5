"""Conversion of the caller's inputs to a float64 map and a boolean mask on one grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from medcam.errors import InputError, InputTypeError, MaskError, warn
from medcam.maps import AttentionMap, resample_array

_MAX_RESAMPLED_AXES = 3
_ROUNDING_STEPS = 4  # one more than linear interpolation of a constant map can deviate by
_NEAR_RATIOS = (0.6, 1.7)  # extents whose ratio lies between these hint at a crop or a padding
_MAX_LISTED_VALUES = 6  # in the error about a mask


def attention_array(attention_map: Any) -> Float[np.ndarray, "*space"]:
    """Return a copy of the map as float64 ``[*space]``.

    A map that is constant up to rounding becomes exactly constant.

    Raises:
        InputTypeError: The map does not consist of real numbers.
        InputError: The map is empty or holds NaN or infinity.

    Example:
        >>> attention_array(torch.ones(2, dtype=torch.bfloat16))
        array([1., 1.])
    """
    numbers = _to_numpy(attention_map, "attention map")
    values: Float[np.ndarray, "*space"] = numbers.astype(np.float64)  # always a copy
    if not values.ndim or not values.size:
        raise InputError(f"The attention map has no voxels: its shape is {values.shape}.")
    if bad := values.size - int(np.isfinite(values).sum()):
        raise InputError(
            f"{bad} of the {values.size} values of the attention map are NaN or infinite; such a "
            "map cannot be scored. Look for an overflow in the model, e.g. run it in float32."
        )
    return without_rounding(values, rounding_step(attention_map))


def without_rounding(
    values: Float[np.ndarray, "*space"], step: float
) -> Float[np.ndarray, "*space"]:
    """Return values, or their first one everywhere if they are constant up to rounding.

    Args:
        values: The values.
        step: Their relative rounding step.

    Example:
        >>> without_rounding(np.array([0.1, 0.1 + 2e-17]), 1e-16), without_rounding(np.eye(1), 0.0)
        (array([0.1, 0.1]), array([[1.]]))
    """
    if np.ptp(values) <= _ROUNDING_STEPS * step * np.abs(values).max():
        return np.full_like(values, values.flat[0])
    return values


def mask_array(mask: Any) -> Bool[np.ndarray, "*space"]:
    """Return a copy of the mask as bool ``[*space]``.

    Raises:
        InputTypeError: The mask does not consist of real numbers.
        MaskError: The mask is empty or holds other values than 0 and 1.

    Example:
        >>> mask_array([0.0, 1.0])
        array([False,  True])
    """
    values = _to_numpy(mask, "mask")
    if not values.ndim or not values.size:
        raise MaskError(f"The mask has no voxels: its shape is {values.shape}.")
    if not np.isin(values, (0, 1)).all():
        distinct = np.unique(values)
        listed = ", ".join(f"{number:g}" for number in distinct[:_MAX_LISTED_VALUES])
        raise MaskError(
            f"The mask must hold 0 and 1 only, or be boolean; this one ({values.dtype}) holds "
            f"{listed}{', …' if distinct.size > _MAX_LISTED_VALUES else ''}. Choose one label with "
            "`mask == label`, or threshold a soft mask with `mask > 0.5`."
        )
    return values.astype(bool)  # always a copy


def match_ranks(
    attention: Float[np.ndarray, "..."],
    mask: Bool[np.ndarray, "..."],
    spacing: tuple[float, ...] | None,
) -> tuple[Float[np.ndarray, "..."], Bool[np.ndarray, "..."]]:
    """Return map and mask without the leading axes of size 1 that are a batch or a channel.

    First drop such axes from one of the two until the ranks agree. Then drop them from both until
    the rank is that of the spacing, or 3 without a spacing.

    Raises:
        MaskError: The ranks still differ.
        InputError: The spacing has another number of axes.

    Example:
        >>> a, m = match_ranks(np.zeros((1, 1, 4, 5)), np.zeros((8, 10), bool), None)
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
    rank = 3 if spacing is None else len(spacing)
    while mask.ndim > rank and attention.shape[0] == mask.shape[0] == 1:
        attention, mask = attention[0], mask[0]
    if spacing is not None and mask.ndim != rank:
        raise InputError(
            f"spacing has {rank} values, {spacing}, but the mask {mask.ndim} axes, {mask.shape}: "
            "give one number of mm per axis."
        )
    return attention, mask


def resample_to_mask(
    attention: Float[np.ndarray, "*space"], shape: tuple[int, ...]
) -> Float[np.ndarray, "*grid"]:
    """Return the map on the grid of its mask, resampled by `medcam.maps.resample_array`.

    Args:
        attention: The map ``[*space]``.
        shape: The shape of the mask.

    Raises:
        MaskError: More than three axes, and another size; or the same extents in another order.

    Example:
        >>> resample_to_mask(np.array([0.0, 1.0]), (4,)).tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    if attention.shape == shape:
        return attention
    if sorted(attention.shape) == sorted(shape):
        raise MaskError(
            f"The attention map has shape {attention.shape}, the mask {shape}: the same extents in "
            "another order. Transpose one of them (SimpleITK's arrays are z, y, x)."
        )
    if attention.ndim > _MAX_RESAMPLED_AXES:
        raise MaskError(
            f"The attention map has shape {attention.shape}, the mask {shape}: with more than "
            "three axes they must be equal. Give one sample of each, without batch and channel "
            "axes."
        )
    if any(_may_be_cropped(*extents) for extents in zip(attention.shape, shape, strict=True)):
        warn(
            f"The attention map has shape {attention.shape}, the mask {shape}: the map was "
            "resampled to the mask, as if both covered the same region. If one of them is padded "
            "or cropped, the score is wrong: bring both to one grid first."
        )
    if attention.min() == attention.max():  # resampling would add rounding errors
        return np.full(shape, attention.flat[0])
    return resample_array(attention, shape)


def _may_be_cropped(map_extent: int, mask_extent: int) -> bool:
    """Return whether two extents differ by too little to be two resolutions of one image.

    A difference of one voxel is rounding, and a large ratio is a coarser grid. What lies between
    looks like a crop or a padding.
    """
    low, high = _NEAR_RATIOS
    return low < mask_extent / map_extent < high and abs(mask_extent - map_extent) > 1


def _to_numpy(values: Any, name: str) -> np.ndarray:
    """Return real numbers as an array of their own dtype; bfloat16 becomes float32."""
    if isinstance(values, AttentionMap):
        raise InputTypeError(
            f"The {name} is an AttentionMap of a batch: give one sample and target of it, "
            "map.attention()[0, 0]."
        )
    if isinstance(values, torch.Tensor):
        tensor = values.detach().cpu()
        values = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"The {name} is a {type(values).__name__}: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise InputTypeError(
            f"The {name} is a {type(values).__name__} of {array.dtype}: give an array or a tensor "
            "of real numbers."
        )
    return array


def rounding_step(values: Any) -> float:
    """Return the relative rounding step of the values' dtype, float32's if that is finer.

    0 for integers.

    Example:
        >>> rounding_step(torch.ones(2, dtype=torch.bfloat16)) == torch.finfo(torch.float32).eps
        True
    """
    if isinstance(values, torch.Tensor):
        step = torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0
    else:
        dtype = np.asarray(values).dtype
        step = float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0
    return min(step, float(np.finfo(np.float32).eps))
