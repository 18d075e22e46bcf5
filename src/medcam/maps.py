"""Attention maps as plain values, and the one rule that resamples them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

ImageName = int | str
"""The name of an image among a model's inputs: its parameter, its key, or its position."""

MapKey = (
    str | None | tuple[str, str | None] | tuple[str | None, ImageName]
    | tuple[str, str | None, ImageName]
)  # fmt: skip
"""A layer's name; ``(method, layer)`` if several methods were requested. The layer is None for
methods without a layer, such as guided backpropagation. Where there is a map for each of several
images, the image's name comes last: ``(layer, image)`` or ``(method, layer, image)``."""

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, eq=False)
class ResolvedTarget:
    """A target resolved on the output: the classes and voxels that were explained.

    Attributes:
        description: The target in words.
        task: "classification", "segmentation" (the output has spatial axes) or "detection".
        classes: The class of each map, ``[batch, targets]``; None if the target is not a class.
        voxels: The number of voxels that the score is the mean over, ``[batch, targets]``, or None.
        regions: Whether the classes are regions that may overlap.
        is_part: Whether a part of a class is explained, such as one lesion.
    """

    description: str
    task: Literal["classification", "segmentation", "detection"]
    classes: Int[Tensor, "batch targets"] | None = None
    voxels: Int[Tensor, "batch targets"] | None = None
    is_part: bool = False
    regions: bool = False

    def __str__(self) -> str:
        return self.description


@dataclass(frozen=True)
class LayerGrid:
    """Where a layer's cells lie on its input: cell ``i`` is centred at ``start + i·step``.

    The centre of what a cell sees follows from the kernels, strides and paddings on the way from
    the input (Araujo et al., Distill 2019, doi 10.23915/distill.00021), not from the extents: after
    five convolutions of kernel 3, stride 2 and padding 1 it is ``32·i``, not ``32·i + 15.5``.

    Attributes:
        start: The centre of the first cell on each spatial axis, in voxels of the input.
        step: The distance between neighbouring cells, in voxels of the input.
        reason: Why the extents were used, as if the layer covered the input exactly; empty if the
            places are known.
        seen: The borders, in voxels, of the part of the input that the layer can depend on, for
            each axis; empty if nothing is cropped. Beyond it, maps are zero.
    """

    start: tuple[float, ...]
    step: tuple[float, ...]
    reason: str = ""
    seen: tuple[tuple[float, float], ...] = ()

    @property
    def known(self) -> bool:
        """Whether the places of the cells are known, not assumed from the extents."""
        return not self.reason

    @staticmethod
    def of_extents(shape: Sequence[int], space: Sequence[int], reason: str = "") -> LayerGrid:
        """Return the grid of a layer of extents ``shape`` whose borders are those of the input."""
        step = tuple(whole / cells for cells, whole in zip(shape, space, strict=True))
        return LayerGrid(tuple((length - 1) / 2 for length in step), step, reason)

    def affine(self, image_affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
        """Return the affine, to mm, of a map of the layer's own shape, from that of the input.

        Example:
            >>> LayerGrid((2.0, 2.0, 1.0), (4.0, 4.0, 1.0)).affine(np.eye(4)).tolist()[0]
            [4.0, 0.0, 0.0, 2.0]
        """
        to_input = np.eye(4)
        axes = len(self.start)
        to_input[range(axes), range(axes)] = self.step
        to_input[:axes, 3] = self.start
        affine: Float[np.ndarray, "4 4"] = np.asarray(image_affine, float) @ to_input
        return affine


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Map of one method and one layer, for every sample and target.

    Attributes:
        values: ``[batch, targets, *space]``, in the method's raw units, on the model's device.
        method: The method's name, e.g. ``"gcam"``.
        layer: The layer's name; None for methods without a layer.
        target: The resolved target.
        signed: Whether negative values carry meaning (evidence against the target).
        positive_part: Whether attention is the positive part of a signed map, not its magnitude.
        channels: For maps of the input itself, the signed values of each input channel before
            the reduction to ``values``, ``[batch, targets, channels, *space]``.
        method_title: The method's name in the literature, e.g. ``"Grad-CAM"``; empty if unknown.
        image: The name of the input that the map lies on, if the model was given several images.
        grid: Where the layer's cells lie on the input; None for maps of the input or of windows.
        on_layer: Whether ``values`` have the layer's own shape (``shape=None``), not the input's.
        input_space: The extents of the input; empty if unknown.
        is_stack: Whether the first spatial axis is views, or the slices of a bag: pictures that the
            network takes one by one.
    """

    values: Float[Tensor, "batch targets *space"]
    method: str
    layer: str | None
    target: ResolvedTarget
    signed: bool = False
    positive_part: bool = False
    channels: Float[Tensor, "batch targets channels *space"] | None = None
    method_title: str = ""
    image: int | str | None = None
    grid: LayerGrid | None = None
    on_layer: bool = False
    input_space: tuple[int, ...] = ()
    is_stack: bool = False

    @property
    def title(self) -> str:
        """The method's name for display."""
        return self.method_title or self.method

    def normalized(self) -> Float[Tensor, "batch targets *space"]:
        """Return the map scaled for display, each sample and target separately.

        Positive maps are scaled to [0, 1] by minimum and maximum; signed maps to [-1, 1],
        symmetric about zero. A constant map, up to rounding, becomes zeros; NaN stays NaN.
        """
        values = self.values
        axes = tuple(range(2, values.ndim))
        low = torch.zeros_like(values).amin(axes, True) if self.signed else values.amin(axes, True)
        high = values.abs().amax(axes, True) if self.signed else values.amax(axes, True)
        span = high - low
        rounding = 8 * torch.finfo(values.dtype).eps * values.abs().amax(axes, True)
        varies = (span > rounding) | span.isnan()
        return torch.where(varies, (values - low) / span.where(varies, 1.0), 0.0)

    def attention(self) -> Float[Tensor, "batch targets *space"]:
        """Return where the network looks: the map without a sign, as scored against a mask."""
        if not self.signed:
            return self.values
        return self.values.clamp(min=0) if self.positive_part else self.values.abs()

    def single(self, sample: int, target: int) -> AttentionMap:
        """Return the map of one sample and one target, by index: ``[1, 1, *space]``."""
        here = (slice(sample, sample + 1), slice(target, target + 1))
        classes, voxels = self.target.classes, self.target.voxels
        resolved = replace(
            self.target,
            classes=None if classes is None else classes[here],
            voxels=None if voxels is None else voxels[here],
        )
        channels = None if self.channels is None else self.channels[here]
        return replace(self, values=self.values[here], target=resolved, channels=channels)

    def at(self, shape: Sequence[int]) -> Float[Tensor, "batch targets *shape"]:
        """Return the raw values at another spatial shape, which covers the input.

        A map of the layer's own shape is placed where the layer's features lie.
        """
        if self.on_layer and self.grid is not None and self.input_space:
            return place(self.values, self.grid, self.input_space, shape)
        return resample(self.values, shape)

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

    medcam resamples maps by this rule and by `place` only. Both grids cover the same extent
    (``align_corners=False``). An axis that shrinks is averaged over areas, so every value
    contributes; an axis that grows is interpolated linearly.

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


def place(
    values: Float[Tensor, "batch maps *layer"],
    grid: LayerGrid,
    space: Sequence[int],
    shape: Sequence[int],
) -> Float[Tensor, "batch maps *shape"]:
    """Return maps of a layer where its features lie on the input, at a spatial shape.

    Maps are sampled linearly at ``(x - start) / step``. Beyond their outermost cells they are
    constant, beyond what the layer can depend on (a crop) zero. An axis on which the result is
    coarser than the layer is averaged instead.

    Args:
        values: The maps, with 1 to 3 spatial axes.
        grid: Where the layer's cells lie on the input.
        space: The extents of the input, which the result covers.
        shape: The extents of the result.

    Example:
        >>> grid = LayerGrid((0.0,), (2.0,))  # cells at the voxels 0 and 2
        >>> place(torch.tensor([[[0.0, 1.0]]]), grid, (4,), (4,))
        tensor([[[0.0000, 0.5000, 1.0000, 1.0000]]])
    """
    for axis in reversed(range(len(shape))):  # the last axis first, while the others are small
        values = _place_axis(
            values, axis + 2, grid.start[axis], grid.step[axis], space[axis], shape[axis]
        )
    return _hide(values, grid.seen, space) if grid.seen else values


def _place_axis(
    values: Tensor, dim: int, start: float, step: float, whole: int, size: int
) -> Tensor:
    """Return `place` along one axis of the tensor."""
    cells, spacing, device = values.shape[dim], whole / size, values.device
    if (start, step, spacing, cells) == (0.0, 1.0, 1.0, size):
        return values
    parts = max(1, ceil(spacing / abs(step) - 1e-6))  # samples that are averaged per voxel
    # computed on the device: copying it there would wait for the device
    exact = torch.float32 if device.type == "mps" else torch.float64
    x = (torch.arange(size * parts, dtype=exact, device=device) + 0.5) * (spacing / parts) - 0.5
    at = ((x - start) / step).clamp(0, cells - 1)
    index = at.floor().clamp(max=max(cells - 2, 0)).long()
    below = values.index_select(dim, index)
    if cells > 1:
        above, share = values.index_select(dim, index + 1), (at - index).to(values.dtype)
        below = below.lerp_(above, share[(...,) + (None,) * (values.ndim - dim - 1)])
    if parts == 1:
        return below
    shape = (*below.shape[:dim], size, parts, *below.shape[dim + 1 :])
    return below.reshape(shape).mean(dim + 1)


def _hide(values: Tensor, seen: Sequence[tuple[float, float]], space: Sequence[int]) -> Tensor:
    """Return maps that are zero beyond ``seen``."""
    for dim, ((low, high), whole) in enumerate(zip(seen, space, strict=True), start=2):
        size, spacing = values.shape[dim], whole / values.shape[dim]
        # the first voxel whose centre lies inside, and the first beyond
        first = min(size, max(0, ceil((low + 0.5) / spacing - 0.5)))
        end = max(first, min(size, floor((high + 0.5) / spacing - 0.5) + 1))
        pads = (0, 0) * (values.ndim - dim - 1) + (first, size - end)
        values = F.pad(values.narrow(dim, first, end - first), pads)
    return values


def resample_array(
    values: Float[np.ndarray, "*space"], shape: Sequence[int]
) -> Float[np.ndarray, "*resampled"]:
    """Return one map ``[*space]`` as a NumPy array, resampled as by `resample`.

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
