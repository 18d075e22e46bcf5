"""Changes of images: random sets of blocks of voxels, what is put in their place, and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

_BLOCKS_PER_AXIS = 12
_FEWEST_PER_AXIS = 8
_FEWEST_BLOCKS = 16
_SHARES = (0.02, 0.15)
"""The share of the blocks that a random set holds, at least and at most."""


@dataclass(frozen=True)
class Blocks:
    """Blocks that cover an image; the last one on an axis may be smaller.

    Attributes:
        edge: The extents of a block in voxels.
        space: The extents of the image.
    """

    edge: tuple[int, ...]
    space: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """The number of blocks on each axis."""
        return tuple(-(-n // edge) for n, edge in zip(self.space, self.edge, strict=True))

    def __len__(self) -> int:
        return math.prod(self.grid)

    def sums(self, values: Float[np.ndarray, "maps *space"]) -> Float[np.ndarray, "maps blocks"]:
        """Return the sum of each map in each block.

        Example:
            >>> Blocks((2,), (5,)).sums(np.ones((1, 5))).tolist()
            [[2.0, 2.0, 1.0]]
        """
        total = values.astype(np.float64)
        for axis, (n, edge) in enumerate(zip(self.space, self.edge, strict=True), start=1):
            total = np.add.reduceat(total, np.arange(0, n, edge), axis=axis)
        return total.reshape(len(total), -1)

    def mask(self, chosen: Bool[np.ndarray, " blocks"]) -> Bool[Tensor, "*space"]:
        """Return which voxels lie in the chosen blocks."""
        return torch.from_numpy(self.spread(chosen.reshape(self.grid)))

    def spread(self, of_blocks: NDArray[Any]) -> NDArray[Any]:
        """Return the values of a grid of blocks on the voxels of the image."""
        voxels = of_blocks
        for axis, (n, edge) in enumerate(zip(self.space, self.edge, strict=True)):
            voxels = np.repeat(voxels, edge, axis=axis).take(np.arange(n), axis=axis)
        return np.ascontiguousarray(voxels)


def blocks_for(
    space: Sequence[int],
    cells: Sequence[Sequence[float]] = (),
    spacing: Sequence[float] | None = None,
) -> Blocks:
    """Return the blocks of a check: one length in mm on every axis, no smaller than a layer's cell.

    The length is 1/12 of the image's longest axis, or the largest cell if that is more, but 1/8 at
    most, and no more than leaves 16 blocks.

    Args:
        space: The extents of the image.
        cells: The extents of the cells of each layer, in voxels.
        spacing: The size of a voxel in mm; None: the same on every axis.

    Example:
        >>> blocks_for((64, 64), [(8.0, 8.0)]).edge
        (8, 8)
        >>> blocks_for((128, 128, 40), spacing=(1.0, 1.0, 3.0)).edge
        (11, 11, 4)
    """
    mm = tuple(spacing) if spacing is not None else (1.0,) * len(space)
    longest = max(n * size for n, size in zip(space, mm, strict=True))
    length = longest / _BLOCKS_PER_AXIS
    for cell in cells:
        length = max(length, *(abs(step) * size for step, size in zip(cell, mm, strict=True)))
    length = min(length, longest / _FEWEST_PER_AXIS)
    while True:
        edge = tuple(
            min(n, max(1, round(length / size))) for n, size in zip(space, mm, strict=True)
        )
        blocks = Blocks(edge, tuple(space))
        if len(blocks) >= min(_FEWEST_BLOCKS, math.prod(space)):
            return blocks
        length *= 0.9


def random_sets(blocks: Blocks, count: int, *, seed: int = 0) -> Bool[np.ndarray, "sets blocks"]:
    """Return random sets of 2 to 15 % of the blocks."""
    rng = np.random.default_rng(seed)
    sets = np.zeros((count, len(blocks)), bool)
    for row in sets:
        size = max(1, round(rng.uniform(*_SHARES) * len(blocks)))
        row[rng.choice(len(blocks), size, replace=False)] = True
    return sets


def mean_fill(images: Float[Tensor, "batch channels *space"]) -> Tensor:
    """Return images of one value: the mean of each channel."""
    return images.mean(tuple(range(2, images.ndim)), keepdim=True).expand_as(images)


def shifted_fill(images: Float[Tensor, "batch channels *space"]) -> Tensor:
    """Return the images shifted by half their extent on every axis, round the border.

    The values that are filled in are then values of the same image, bright ones as well as dark.
    """
    axes = tuple(range(2, images.ndim))
    return images.roll([images.shape[axis] // 2 for axis in axes], axes)


def noisy(
    images: Float[Tensor, "batch channels *space"], share: float, generator: torch.Generator
) -> Tensor:
    """Return images with noise whose standard deviation is a share of that of each image."""
    axes = tuple(range(1, images.ndim))
    deviation = images.float().std(axes, keepdim=True).to(images)
    noise = torch.randn(images.shape, generator=generator).to(images)
    return images + share * deviation * noise


FILLS = {"mean": mean_fill, "shifted": shifted_fill}
"""What is put in the place of the blocks, by name. The verdict is that of the first; the second is
shown beside it, and a pass that it contradicts becomes undecided."""


def to_numpy(values: Tensor) -> NDArray[Any]:
    """Return values in double precision on the CPU."""
    return values.detach().to("cpu", torch.float64).numpy()
