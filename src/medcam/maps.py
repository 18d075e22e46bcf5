"""Attention maps as plain values, and the one rule that resamples them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

MapKey = str | None | tuple[str, str | None]
"""A layer's name; ``(method, layer)`` if several methods were requested. The layer is None for
methods without a layer, such as guided backpropagation."""

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, eq=False)
class ResolvedTarget:
    """A target resolved on the output: the classes and voxels that were explained.

    Attributes:
        description: The target in words.
        task: "classification" or "segmentation", by the shape of the output; "detection" for
            boxes.
        classes: The class of each map, ``[batch, targets]``; None if the target is not a class.
        voxels: The number of voxels that the score is the mean over, ``[batch, targets]``; None
            in a classification.
    """

    description: str
    task: Literal["classification", "segmentation", "detection"]
    classes: Int[Tensor, "batch targets"] | None = None
    voxels: Int[Tensor, "batch targets"] | None = None

    def __str__(self) -> str:
        return self.description


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Map of one method and one layer, for every sample and target.

    Attributes:
        values: ``[batch, targets, *space]``, in the raw units of the method, on the device of
            the model.
        method: The method's name, e.g. ``"gcam"``.
        layer: The layer's name; None for methods without a layer.
        target: The resolved target.
        signed: Whether negative values carry meaning (evidence against the target).
        positive_part: Whether attention is the positive part of a signed map (HiResCAM); otherwise
            it is the magnitude (guided backpropagation).
        channels: For maps of the input itself, the signed values of each input channel before
            the reduction to ``values``, ``[batch, targets, channels, *space]``.
        method_title: The method's name in the literature, e.g. ``"Grad-CAM"``; empty if unknown.
    """

    values: Float[Tensor, "batch targets *space"]
    method: str
    layer: str | None
    target: ResolvedTarget
    signed: bool = False
    positive_part: bool = False
    channels: Float[Tensor, "batch targets channels *space"] | None = None
    method_title: str = ""

    @property
    def title(self) -> str:
        """The method's name for display."""
        return self.method_title or self.method

    def normalized(self) -> Float[Tensor, "batch targets *space"]:
        """Return the map scaled for display, each sample and target separately.

        Positive maps are scaled to [0, 1] by minimum and maximum; signed maps to [-1, 1],
        symmetric about zero. A constant map becomes zeros, never NaN.
        """
        values = self.values
        axes = tuple(range(2, values.ndim))
        low = torch.zeros_like(values).amin(axes, True) if self.signed else values.amin(axes, True)
        high = values.abs().amax(axes, True) if self.signed else values.amax(axes, True)
        span = high - low
        # resampling a constant leaves differences by rounding, which are not contrast
        varies = span > 8 * torch.finfo(values.dtype).eps * values.abs().amax(axes, True)
        return torch.where(varies, (values - low) / span.where(varies, 1.0), 0.0)

    def attention(self) -> Float[Tensor, "batch targets *space"]:
        """Return where the network looks: the map without a sign, as scored against a mask."""
        if not self.signed:
            return self.values
        return self.values.clamp(min=0) if self.positive_part else self.values.abs()

    def single(self, sample: int, target: int) -> AttentionMap:
        """Return the map of one sample and one target, ``[1, 1, *space]``.

        Args:
            sample: The index of the sample.
            target: The index of the target.
        """
        here = (slice(sample, sample + 1), slice(target, target + 1))
        classes, voxels = self.target.classes, self.target.voxels
        resolved = replace(
            self.target,
            classes=None if classes is None else classes[here],
            voxels=None if voxels is None else voxels[here],
        )
        channels = None if self.channels is None else self.channels[here]
        return replace(self, values=self.values[here], target=resolved, channels=channels)

    def numpy(self) -> Float[np.ndarray, "batch targets *space"]:
        """Return the raw values as a NumPy array on the CPU."""
        return self.values.cpu().numpy()

    def __repr__(self) -> str:
        shape = ", ".join(str(extent) for extent in self.values.shape)
        source = "the input" if self.layer is None else f"layer {self.layer!r}"
        return f"AttentionMap({self.method} of {source}, [{shape}], {self.target})"


def resample(
    values: Float[Tensor, "batch maps *space"], shape: Sequence[int]
) -> Float[Tensor, "batch maps *resampled"]:
    """Return maps at another spatial shape: area means where an axis shrinks, linear elsewhere.

    medcam resamples maps by this rule only: for maps on the input's grid, for scores against a
    mask, and for pictures. Both grids cover the same extent (``align_corners=False``). An axis that
    shrinks is averaged over areas, so every value contributes; an axis that grows is interpolated
    linearly.

    Args:
        values: The maps, with 1 to 3 spatial axes.
        shape: The new extents of the spatial axes.

    Example:
        >>> resample(torch.tensor([[[[0.0, 1.0]]]]), (1, 4))
        tensor([[[[0.0000, 0.2500, 0.7500, 1.0000]]]])
        >>> resample(torch.tensor([[[[0.0, 8.0, 0.0, 0.0]]]]), (1, 2))
        tensor([[[[4., 0.]]]])
    """
    space, shape = tuple(values.shape[2:]), tuple(shape)
    if space == shape:
        return values
    smaller = tuple(min(old, new) for old, new in zip(space, shape, strict=True))
    if smaller != space:
        values = F.interpolate(values, smaller, mode="area")
    if smaller != shape:
        values = F.interpolate(values, shape, mode=_LINEAR[len(shape)], align_corners=False)
    return values


def resample_array(
    values: Float[np.ndarray, "*space"], shape: Sequence[int]
) -> Float[np.ndarray, "*resampled"]:
    """Return one map as a NumPy array, resampled as by `resample`.

    Args:
        values: The map, with 1 to 3 axes.
        shape: The new extents of the axes.

    Example:
        >>> resample_array(np.array([[0.0, 8.0, 0.0, 0.0]]), (1, 2)).tolist()
        [[4.0, 0.0]]
    """
    if values.shape == tuple(shape):
        return values
    resampled: Float[np.ndarray, "*resampled"] = resample(
        torch.from_numpy(np.ascontiguousarray(values))[None, None], shape
    )[0, 0].numpy()
    return resampled
