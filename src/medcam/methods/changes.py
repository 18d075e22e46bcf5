"""Changed images: references to start from, and how many of them the model sees at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medcam.errors import InputError

Reference = Literal["zero", "mean", "blur"] | float | Tensor
"""An image without the evidence: a word, a number, or a tensor that broadcasts to the image."""

_WORDS = ("zero", "mean", "blur")
_BLUR = 1 / 8
"""The standard deviation of the blur, in extents of the image."""

MOST_VALUES = 2**22
_MOST_IMAGES = 64
"""The most values, and the most images, that are changed and run at a time."""


def reference_of(
    inputs: Float[Tensor, "1 channels *space"], reference: Reference, option: str
) -> Float[Tensor, "1 channels *space"]:
    """Return an image without the evidence.

    "mean" is the mean of each channel over the image, "blur" the image blurred by a Gaussian with
    an eighth of each extent as standard deviation, which repeats the border.

    Args:
        inputs: The image.
        reference: A word, a number, or a tensor that broadcasts to the image.
        option: The name of the option, for errors.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(reference, Tensor):
        try:
            return reference.detach().to(inputs).expand_as(inputs)
        except RuntimeError as error:
            raise InputError(
                f"{option}= has shape {list(reference.shape)}, which does not broadcast to an "
                f"image of shape {list(inputs.shape[1:])}."
            ) from error
    if isinstance(reference, (int, float)) and not isinstance(reference, bool):
        return torch.full_like(inputs, float(reference))
    if reference not in _WORDS:
        raise InputError(
            f"{option}={reference!r}: give 'zero', 'mean' (of each channel), 'blur', a number, or "
            "a tensor that broadcasts to the image."
        )
    if reference == "zero":
        return torch.zeros_like(inputs)
    if reference == "mean":
        wide = inputs.double() if inputs.dtype == torch.float64 else inputs.float()
        mean = wide.flatten(2).mean(2)
        return mean.reshape(*mean.shape, *[1] * (inputs.ndim - 2)).to(inputs).expand_as(inputs)
    return blurred(inputs)


def blurred(inputs: Float[Tensor, "1 channels *space"]) -> Float[Tensor, "1 channels *space"]:
    """Return an image blurred along each axis by a Gaussian of an eighth of its extent."""
    values = inputs if inputs.dtype == torch.float64 else inputs.float()
    for axis in range(2, values.ndim):
        extent = values.shape[axis]
        sigma = extent * _BLUR
        radius = max(1, round(3 * sigma))
        offsets = torch.arange(-radius, radius + 1, dtype=values.dtype, device=values.device)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        lines = values.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, extent), (radius, radius), mode="replicate")
        flat = F.conv1d(flat, (kernel / kernel.sum())[None, None])
        values = flat.reshape(lines.shape).movedim(-1, axis)
    return values.to(inputs)


def portions(
    count: int, inputs: Tensor, batch: int | None, evaluated: Callable[..., Any]
) -> Iterator[slice]:
    """Yield slices of the changed images, as many as the model sees at a time.

    Args:
        count: The number of changed images.
        inputs: The image, or features of its size.
        batch: The number at a time; None: as many as hold four million values, 64 at most.
        evaluated: The evidence that runs the model, which is told the number for a progress bar.

    Raises:
        InputError: ``batch`` is no positive number.
    """
    if batch is not None and (isinstance(batch, bool) or not batch >= 1):
        raise InputError(f"batch={batch!r}: give the number of images at a time, at least 1.")
    announce = getattr(evaluated, "announce", None)
    if announce is not None:
        announce(count)
    size = batch or min(max(1, MOST_VALUES // max(1, inputs[0].numel())), _MOST_IMAGES)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def positive_count(value: int, option: str) -> int:
    """Return a count that an option gives.

    Raises:
        InputError: It is no whole number from 1 on.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
        raise InputError(f"{option}={value!r}: give a whole number, at least 1.")
    return int(value)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Return one value for each image with trailing axes of 1, to broadcast with images."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def at_least_float32(values: Tensor) -> Tensor:
    """Return values in at least float32."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
