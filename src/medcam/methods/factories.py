"""Methods that run the model again, with options."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from medcam.errors import InputError
from medcam.methods.changes import Reference
from medcam.methods.method import Method
from medcam.methods.path_gradients import change_from_references, expected_gradients
from medcam.methods.registry import AUTO, MethodLike, get
from medcam.methods.smooth_grad import smooth_grad


def smoothgrad(
    method: MethodLike = "saliency",
    *,
    noise: float = 0.15,
    samples: int = 16,
    seed: int = 0,
    batch: int | None = None,
) -> Method:
    """Return SmoothGrad of a method: its map averaged over noisy images.

    Args:
        method: The method whose maps are averaged: a name or a `Method`.
        noise: The standard deviation of the noise, as a share of each channel's range.
        samples: The number of noisy images.
        seed: The seed of the noise.
        batch: The number of images that run at a time; None: by their size.

    Raises:
        InputError: ``method`` is "auto", which depends on what is explained.

    Example:
        >>> smoothgrad("gcam", samples=8).title
        'SmoothGrad of Grad-CAM'
    """
    repeated = get(method)
    if repeated == AUTO:
        raise InputError("smoothgrad('auto'): name the method, such as smoothgrad('layercam').")
    function = partial(smooth_grad, noise=noise, samples=samples, seed=seed, batch=batch)
    is_plain = repeated == get("saliency")
    return Method(
        "smoothgrad" if is_plain else f"smoothgrad_{repeated.name}", function,
        "SmoothGrad" if is_plain else f"SmoothGrad of {repeated.title}",
        signed=repeated.signed, positive_part=repeated.positive_part,
        reduction=repeated.reduction, per_channel=repeated.per_channel, repeated=repeated,
    )  # fmt: skip


def intgrad(*, baseline: Reference = "zero", steps: int = 32, batch: int | None = None) -> Method:
    """Return Integrated Gradients with options.

    Args:
        baseline: The image without evidence: "zero", the "mean" of each channel, "blur", a number,
            or a tensor that broadcasts to the image ``[channels, *space]``.
        steps: The number of points on the path.
        batch: The number of images that run at a time; None: by their size.

    Example:
        >>> intgrad(baseline="mean", steps=16).title
        'Integrated Gradients'
    """
    return get("intgrad", baseline=baseline, steps=steps, batch=batch)


def expgrad(
    references: Tensor, *, samples: int = 64, seed: int = 0, batch: int | None = None
) -> Method:
    """Return Expected Gradients over images of other patients.

    Args:
        references: The images, ``[references, channels, *space]``, prepared as those explained.
        samples: The number of draws, rounded up to a multiple of the references.
        seed: The seed of the draws.
        batch: The number of images that run at a time; None: by their size.

    Raises:
        InputError: ``references`` is no tensor of images.

    Example:
        >>> import torch
        >>> expgrad(torch.rand(4, 1, 8, 8)).name
        'expgrad'
    """
    if not isinstance(references, Tensor) or references.ndim < 3 or not len(references):
        raise InputError(
            "expgrad(references): give a tensor [references, channels, *space] with images of "
            "other patients, prepared as the image is."
        )
    function = partial(
        expected_gradients, references=references, samples=samples, seed=seed, batch=batch
    )
    total = partial(change_from_references, references=references, batch=batch)
    return Method("expgrad", function, "Expected Gradients", signed=True, total=total)


def occlusion(
    *,
    size: float | Sequence[float] | None = None,
    stride: float | Sequence[float] | None = None,
    spacing: float | Sequence[float] | None = None,
    fill: Reference = "mean",
    roi: Any = None,
    batch: int | None = None,
) -> Method:
    """Return occlusion with options.

    Args:
        size: The box, in voxels; in millimetres if ``spacing`` is given. One number for all axes,
            or one for each. None: an eighth of each extent.
        stride: The distance between boxes, in the same unit. None: the size, without overlap.
        spacing: The size of a voxel in millimetres, for each axis of the tensor.
        fill: What a box shows: the "mean" of each channel, "zero", "blur", a number, or a tensor.
        roi: A mask ``[*space]``: only boxes that touch it are tried.
        batch: The number of images that run at a time; None: by their size.

    Example:
        >>> occlusion(size=20, stride=10, spacing=(1.0, 1.0, 3.0)).title  # in millimetres
        'Occlusion'
    """
    return get(
        "occlusion", size=size, stride=stride, spacing=spacing, fill=fill, roi=roi, batch=batch
    )


def scorecam(*, channels: int | None = 256, batch: int | None = None) -> Method:
    """Return Score-CAM with options.

    Args:
        channels: The number of channels that are tried, those that vary most; None: all.
        batch: The number of images that run at a time; None: by their size.

    Example:
        >>> scorecam(channels=32).title
        'Score-CAM'
    """
    return get("scorecam", channels=channels, batch=batch)


def ablationcam(*, channels: int | None = 256, batch: int | None = None) -> Method:
    """Return Ablation-CAM with options.

    Args:
        channels: The number of channels that are tried, those of the largest magnitude; None: all.
        batch: The number of images that run at a time; None: by their size.

    Example:
        >>> ablationcam(channels=32).title
        'Ablation-CAM'
    """
    return get("ablationcam", channels=channels, batch=batch)


def rise(
    *,
    masks: int = 512,
    cells: int = 8,
    keep: float = 0.5,
    fill: Reference = "zero",
    seed: int = 0,
    batch: int | None = None,
) -> Method:
    """Return RISE with options.

    Args:
        masks: The number of random masks.
        cells: The number of cells along each axis.
        keep: The probability that a cell is kept.
        fill: What shows where the image does not: "zero", the "mean" of each channel, "blur", a
            number, or a tensor.
        seed: The seed of the masks.
        batch: The number of images that run at a time; None: by their size.

    Example:
        >>> rise(masks=1000, fill="mean").title
        'RISE'
    """
    return get("rise", masks=masks, cells=cells, keep=keep, fill=fill, seed=seed, batch=batch)
