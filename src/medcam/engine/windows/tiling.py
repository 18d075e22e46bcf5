"""Places and weights of overlapping windows.

They equal those of ``monai.inferers.sliding_window_inference``: a prediction stitched with them is
the same as MONAI's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from medcam.errors import InputError

Place = tuple[slice | int, ...]
"""A window's place on the padded grid: one slice per axis, an index where it is one slice thick."""

PADDINGS = ("constant", "reflect", "replicate", "circular")


@dataclass(frozen=True, eq=False)
class Windows:
    """Overlapping windows over a grid.

    Attributes:
        shape: The spatial shape of the padded grid.
        places: The windows' places on the padded grid.
        weights: The weight of each voxel of a window, ``[*roi]``.
        padding: The padding on each side, in the order of ``torch.nn.functional.pad``.
        padding_mode: The mode of ``torch.nn.functional.pad``.
        value: The value of the padding in the mode "constant".
    """

    shape: tuple[int, ...]
    places: tuple[Place, ...]
    weights: Float[Tensor, "*roi"]
    padding: tuple[int, ...] = ()
    padding_mode: str = "constant"
    value: float = 0.0

    def __len__(self) -> int:
        return len(self.places)

    def pad(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Return ``[batch, channels, *space]`` padded."""
        if not any(self.padding):
            return tensor
        value = self.value if self.padding_mode == "constant" else None
        return F.pad(tensor, self.padding, mode=self.padding_mode, value=value)

    def crop(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Return the tensor without the padding of `pad`."""
        for axis, low, high in self._padding_by_axis():
            tensor = tensor.narrow(axis, low, tensor.shape[axis] - low - high)
        return tensor

    def fold(self, gradients: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the gradient on the grid before `pad`, given that on the padded grid.

        This is the backward pass of `pad`: the gradients of a voxel's copies in the padding are
        added to its own.
        """
        if not any(self.padding):
            return gradients
        with torch.enable_grad():
            origin = torch.zeros_like(self.crop(gradients), requires_grad=True)
            (folded,) = torch.autograd.grad(self.pad(origin), origin, gradients)
        return folded

    def sums(self, *, device: torch.device | None = None) -> Float[Tensor, "*padded"]:
        """Return the sum of all windows' weights at each voxel of the padded grid."""
        total = torch.zeros(self.shape, dtype=self.weights.dtype, device=device)
        weights = self.weights.to(total.device)
        for place in self.places:
            total[place] += weights
        return total

    def counts(self, *, device: torch.device | None = None) -> Float[Tensor, "*padded"]:
        """Return the number of windows over each voxel of the padded grid."""
        total = torch.zeros(self.shape, dtype=self.weights.dtype, device=device)
        for place in self.places:
            total[place] += 1
        return total

    def _padding_by_axis(self) -> list[tuple[int, int, int]]:
        """Return each axis, counted from the last one, with its padding on both sides."""
        pairs = zip(self.padding[::2], self.padding[1::2], strict=True)
        return [(-1 - i, low, high) for i, (low, high) in enumerate(pairs)]


def sliding_windows(
    space: Sequence[int],
    roi_size: Sequence[int] | int,
    *,
    overlap: float | Sequence[float] = 0.25,
    mode: Literal["gaussian", "constant"] = "gaussian",
    sigma_scale: float | Sequence[float] = 0.125,
    padding_mode: str = "constant",
    value: float = 0.0,
    slice_axis: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Windows:
    """Return windows over a grid, at the places of MONAI's sliding-window inference.

    Args:
        space: The grid's spatial shape.
        roi_size: The windows' extents; one number for all axes, 0 or -1 for the whole axis. An
            axis shorter than its window is padded on both sides.
        overlap: The share of a window that the next one overlaps, in [0, 1).
        mode: "gaussian" weights a window's border less; "constant" weights every voxel alike.
        sigma_scale: The Gaussian's standard deviation, in window extents.
        padding_mode: "constant", "reflect", "replicate" or "circular".
        value: The value of the padding, for "constant".
        slice_axis: Windows are one slice thick along this axis and the model is 2D; ``roi_size``
            then names the other axes.
        dtype: The weights' type.

    Raises:
        InputError: An option does not fit the grid.

    Example:
        >>> windows = sliding_windows((10, 8), (6, 8), overlap=0.5)
        >>> [along_first_axis for along_first_axis, _ in windows.places]
        [slice(0, 6, None), slice(3, 9, None), slice(4, 10, None)]
    """
    space = tuple(int(extent) for extent in space)
    axis = None if slice_axis is None else _checked_axis(slice_axis, len(space))
    planes = [extent for i, extent in enumerate(space) if i != axis]
    roi_sizes = _per_axis(roi_size, len(planes), "roi_size")
    overlaps = _per_axis(overlap, len(planes), "overlap")
    sigmas = _per_axis(sigma_scale, len(planes), "sigma_scale")
    if not all(0 <= share < 1 for share in overlaps):
        raise InputError(f"overlap={overlap!r} has to be at least 0 and below 1.")
    if not all(sigma > 0 for sigma in sigmas):
        raise InputError(f"sigma_scale={sigma_scale!r} has to be above 0.")
    if padding_mode not in PADDINGS:
        raise InputError(f"padding_mode={padding_mode!r}: choose from {', '.join(PADDINGS)}.")
    roi = [
        int(size) if size and size > 0 else extent
        for size, extent in zip(roi_sizes, planes, strict=True)
    ]
    missing = [max(window - extent, 0) for window, extent in zip(roi, planes, strict=True)]
    shape = [extent + gap for extent, gap in zip(planes, missing, strict=True)]
    sides = [(gap // 2, gap - gap // 2) for gap in missing]
    places_by_axis: list[Sequence[slice | int]] = [
        [slice(start, start + window) for start in _starts(extent, window, share)]
        for extent, window, share in zip(shape, roi, overlaps, strict=True)
    ]
    if axis is not None:
        places_by_axis.insert(axis, range(space[axis]))
        shape.insert(axis, space[axis])
        sides.insert(axis, (0, 0))
    # torch.nn.functional.pad counts the axes from the last one.
    padding = tuple(side for pair in reversed(sides) for side in pair) if any(missing) else ()
    return Windows(
        tuple(shape), tuple(product(*places_by_axis)), _weights(roi, mode, sigmas, dtype), padding,
        padding_mode, value,
    )  # fmt: skip


def _starts(extent: int, window: int, share: float) -> list[int]:
    """Return the first voxel of each window along one axis; the last window ends with the axis.

    Args:
        extent: The axis's extent.
        window: The window's extent.
        share: The share of a window that the next one overlaps.
    """
    step = window if window == extent else max(int(window * (1 - share)), 1)
    count = next((i + 1 for i in range(ceil(extent / step)) if i * step + window >= extent), 1)
    return [min(i * step, extent - window) for i in range(count)]


def _weights(
    roi: Sequence[int], mode: str, sigmas: Sequence[float], dtype: torch.dtype
) -> Float[Tensor, "*roi"]:
    """Return the weight of each voxel of a window.

    Raises:
        InputError: The mode does not exist.
    """
    if mode == "constant":
        return torch.ones(list(roi), dtype=dtype)
    if mode != "gaussian":
        raise InputError(f"mode={mode!r}: choose 'gaussian' or 'constant'.")
    weights = torch.ones([])
    for i, (extent, sigma) in enumerate(zip(roi, sigmas, strict=True)):
        offset = torch.arange(-(extent - 1) / 2.0, (extent - 1) / 2.0 + 1, dtype=torch.float)
        line = torch.exp(offset**2 / (-2 * (extent * sigma) ** 2))
        weights = weights.unsqueeze(-1) * line[(None,) * i] if i else line
    return weights.clamp(min=1e-3).to(dtype)


def _checked_axis(axis: int, count: int) -> int:
    """Return a spatial axis as a number from 0 on.

    Raises:
        InputError: There is no such axis, or it is the only one.
    """
    if count == 1:
        raise InputError(f"slice_axis={axis}: a signal has one axis and no slices: leave it out.")
    if not -count <= axis < count:
        raise InputError(
            f"slice_axis={axis}: the image has {count} spatial axes; choose an axis from {-count} "
            f"to {count - 1}."
        )
    return axis % count


def _per_axis(value: float | Sequence[float], count: int, name: str) -> list[float]:
    """Return one number for each axis; a single number stands for all axes.

    Raises:
        InputError: There are more or fewer numbers than axes.
    """
    if isinstance(value, (int, float)):
        return [value] * count
    values = list(value)
    if len(values) != count:
        numbers = f"{len(values)} number{'' if len(values) == 1 else 's'}"
        raise InputError(f"{name}={value!r} has {numbers}; {count} are needed, one per axis.")
    return values
