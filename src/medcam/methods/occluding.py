"""Occlusion: the drop of the score where a box hides the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.errors import InputError, MaskError
from medcam.methods.changes import Reference, at_least_float32, portions, reference_of

_SHARE = 8
"""The extents of the image in boxes of the default size."""

Box = tuple[slice, ...]
"""The place of a box on the image."""


def occlusion_map(
    inputs: Float[Tensor, "1 channels *space"],
    score_of: Callable[..., Tensor],
    size: float | Sequence[float] | None = None,
    stride: float | Sequence[float] | None = None,
    spacing: float | Sequence[float] | None = None,
    fill: Reference = "mean",
    roi: Any = None,
    batch: int | None = None,
) -> Float[Tensor, "targets 1 *space"]:
    """Return occlusion: at each voxel the mean drop of the score over the boxes that hide it.

    Zeiler and Fergus, arXiv 1311.2901, section 4.2, who map the score itself; here it is the drop
    ``y(x) - y(x with a box)``, spread over the box. All channels are hidden at once. Where the
    stride does not fit the image, the last box lies at its border.

    Args:
        inputs: The image x.
        score_of: Function of images that returns their scores.
        size: The box, in voxels; in millimetres if ``spacing`` is given. One number for all axes,
            or one for each. None: an eighth of each extent.
        stride: The distance between boxes, in the same unit. None: the size, without overlap.
        spacing: The size of a voxel in millimetres, for each axis of the tensor.
        fill: What a box shows: the "mean" of each channel, "zero", "blur" (the image blurred), a
            number, or a tensor that broadcasts to the image.
        roi: A mask ``[*space]``, 0/1 or boolean: only boxes that touch it are tried, and the map
            is zero outside. None: the whole image.
        batch: The number of images that run at a time; None: by their size.

    Raises:
        InputError: An option is not accepted.
        MaskError: ``roi`` does not have the image's shape, or other values than 0 and 1.
    """
    space = tuple(inputs.shape[2:])
    eighth = [-(-extent // _SHARE) for extent in space]
    sizes = eighth if size is None else in_voxels(size, spacing, len(space), "size")
    sizes = [min(edge, extent) for edge, extent in zip(sizes, space, strict=True)]
    strides = sizes if stride is None else in_voxels(stride, spacing, len(space), "stride")
    inside = None if roi is None else _checked_roi(roi, space).to(inputs.device)
    boxes = boxes_of(space, sizes, strides)
    if inside is not None:
        boxes = [box for box in boxes if bool(inside[box].any())]
    filled = reference_of(inputs, fill, "fill")
    score = score_of(inputs)[0]
    total = at_least_float32(inputs.new_zeros(len(score), *space)).to(score)
    counts = torch.zeros(space, dtype=total.dtype, device=total.device)
    for portion in portions(len(boxes), inputs, batch, score_of):
        hidden = boxes[portion]
        images = inputs.expand(len(hidden), *inputs.shape[1:]).clone()
        for image, box in zip(images, hidden, strict=True):
            image[(slice(None), *box)] = filled[0][(slice(None), *box)]
        drops = score - score_of(images)
        for drop, box in zip(drops, hidden, strict=True):
            total[(slice(None), *box)] += drop.reshape(-1, *[1] * len(space))
            counts[box] += 1
    values = total / counts.clamp(min=1)
    if inside is not None:
        values = values * inside.to(values)
    return values[:, None]


def boxes_of(space: Sequence[int], sizes: Sequence[int], strides: Sequence[int]) -> list[Box]:
    """Return the places of boxes over an image; the last one along an axis ends with the axis.

    Example:
        >>> [box[0].start for box in boxes_of((10,), (4,), (4,))]
        [0, 4, 6]
    """
    places = []
    for extent, edge, step in zip(space, sizes, strides, strict=True):
        last = extent - edge
        starts = sorted({*range(0, last + 1, step), last})
        places.append([slice(start, start + edge) for start in starts])
    return list(product(*places))


def in_voxels(
    length: float | Sequence[float],
    spacing: float | Sequence[float] | None,
    count: int,
    option: str,
) -> list[int]:
    """Return lengths in voxels, at least 1, given in voxels or in millimetres.

    Args:
        length: One length for all axes, or one for each.
        spacing: The size of a voxel in millimetres; None: lengths are in voxels.
        count: The number of axes.
        option: The name of the option, for errors.

    Raises:
        InputError: There is not one positive length for each axis; voxels are whole numbers.

    Example:
        >>> in_voxels(12, (1.0, 1.0, 5.0), 3, "size")
        [12, 12, 2]
    """
    lengths = _per_axis(length, count, option)
    if spacing is None:
        if any(edge != int(edge) for edge in lengths):
            raise InputError(
                f"{option}={length!r} is in voxels, whole numbers; for millimetres give spacing=, "
                "the size of a voxel along each axis of the tensor."
            )
        return [int(edge) for edge in lengths]
    edges = _per_axis(spacing, count, "spacing")
    return [max(1, round(mm / edge)) for mm, edge in zip(lengths, edges, strict=True)]


def _per_axis(value: float | Sequence[float], count: int, option: str) -> list[float]:
    """Return one positive number for each axis.

    Raises:
        InputError: There are more or fewer, or one is not positive.
    """
    numbers = [value] * count if isinstance(value, (int, float)) else list(value)
    if len(numbers) != count or not all(
        isinstance(number, (int, float)) and 0 < number < float("inf") for number in numbers
    ):
        raise InputError(
            f"{option}={value!r}: give a positive number, or {count}, one for each axis of the "
            "tensor."
        )
    return [float(number) for number in numbers]


def _checked_roi(roi: Any, space: tuple[int, ...]) -> Tensor:
    """Return a region as a boolean mask ``[*space]``.

    Raises:
        MaskError: It has another shape, or values other than 0 and 1.
    """
    mask = torch.as_tensor(roi)
    if tuple(mask.shape) != space:
        raise MaskError(f"roi= has shape {list(mask.shape)}; the image has {list(space)}.")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise MaskError("roi= holds values other than 0 and 1: pass e.g. `mask == 2`.")
    return mask.bool()
