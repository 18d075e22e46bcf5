"""A marker in an image: its place, the image with it, and how much of a map lies in it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medcam.evaluation.ranking import relevance_mass

_SIDE = 8
"""The marker's side is this part of the shortest axis, or a layer's cell if that is more."""

_LARGEST = 4
"""The side is this part of each axis at most, so that there are other boxes to compare with."""


def marker_place(
    space: Sequence[int], cells: Sequence[Sequence[float]], *, seed: int = 0
) -> Bool[Tensor, "*space"]:
    """Return where the marker lies: a box at a corner, off the border by half its side.

    Example:
        >>> marker_place((32, 32), []).sum().item()
        16
    """
    rng = np.random.default_rng(seed)
    mask = torch.zeros(tuple(space), dtype=torch.bool)
    side = max(2, min(space) // _SIDE, *(round(max(cell)) for cell in cells), 0)
    index = []
    for n in space:
        own = min(side, max(1, n // _LARGEST))
        gap = min(own // 2, n - own)
        start = gap if rng.random() < 0.5 else n - own - gap
        index.append(slice(start, start + own))
    mask[tuple(index)] = True
    return mask


def with_marker(
    images: Float[Tensor, "batch channels *space"], where: Bool[Tensor, "*space"]
) -> Float[Tensor, "batch channels *space"]:
    """Return images with a chequered box of each channel's lowest and highest value."""
    axes = tuple(range(2, images.ndim))
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    grid = torch.meshgrid(*(torch.arange(n) // 2 for n in where.shape), indexing="ij")
    bright = (torch.stack(grid).sum(0) % 2 == 0).to(images.device)
    return torch.where(where.to(images.device), torch.where(bright, high, low), images)


def boxes_below(values: Float[np.ndarray, "*space"], where: Bool[np.ndarray, "*space"]) -> float:
    """Return the share of the boxes apart from a box that have a smaller sum; half of a tie counts.

    The other boxes have its size and lie anywhere on the map, but do not overlap it.

    Example:
        >>> boxes_below(np.array([5.0, 0.0, 1.0, 9.0]), np.array([True, False, False, False]))
        0.6666666666666666
    """
    index = np.argwhere(where)
    start, edge = index.min(0), np.ptp(index, 0) + 1
    sums = values
    apart = np.zeros((1,) * values.ndim, bool)
    for axis, (first, length) in enumerate(zip(start, edge, strict=True)):
        total = np.insert(sums.cumsum(axis), 0, 0, axis)
        places = np.arange(total.shape[axis] - length)
        sums = total.take(places + length, axis) - total.take(places, axis)
        shape = [-1 if n == axis else 1 for n in range(values.ndim)]
        apart = apart | (abs(places - first) >= length).reshape(shape)
    own, others = sums[tuple(start)], sums[apart]
    equal = abs(others - own) <= 1e-9 * abs(values).sum()  # sums differ by rounding
    return float(np.mean(np.where(equal, 0.5, others < own)))


def share_in(values: Float[np.ndarray, "*space"], where: Bool[np.ndarray, "*space"]) -> float:
    """Return the share of the positive values that lies in a box; its extent if all are equal."""
    share = relevance_mass(values.clip(min=0), where)
    return float(where.mean()) if math.isnan(share) else share
