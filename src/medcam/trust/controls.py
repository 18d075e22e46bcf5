"""Controls of the trust check: maps that know the image, but not the network."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

IMAGE_CONTROLS = ("random", "edges", "centre", "intensity")
"""The controls that a faithful map has to be better than."""

NEAR_TARGET = "near the target"
"""The control that knows the place of the target; it is shown beside the others."""

_CENTRE = 0.5
"""The standard deviation of the centre's Gaussian, in half extents."""


def image_controls(
    images: Float[np.ndarray, "batch channels *space"], *, seed: int = 0
) -> dict[str, Float[np.ndarray, "batch *space"]]:
    """Return maps that are made of the images alone, by name.

    ``random`` are uniform random numbers; ``edges`` the magnitude of the Sobel gradient; ``centre``
    a Gaussian in the middle of the image; ``intensity`` the distance from the median grey value.
    Of several channels the mean is taken, after each is scaled to a standard deviation of 1.
    """
    space = images.shape[2:]
    axes = tuple(range(2, images.ndim))
    deviation = images.std(axes, keepdims=True)
    scaled = images / np.where(deviation > 0, deviation, 1)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in space),
                       indexing="ij", sparse=True)  # fmt: skip
    distance: NDArray[Any] = np.asarray(sum(x**2 for x in grid))
    centre = np.broadcast_to(np.exp(-distance / (2 * _CENTRE**2)), space)
    return {
        "random": np.random.default_rng(seed).random((len(images), *space)),
        "edges": np.stack([np.mean([_edges(channel) for channel in image], 0) for image in scaled]),
        "centre": np.repeat(centre[None], len(images), 0),
        "intensity": np.abs(scaled - np.median(scaled, axes, keepdims=True)).mean(1),
    }


def near_target(
    masks: Bool[np.ndarray, "batch *space"],
) -> Float[np.ndarray, "batch *space"]:
    """Return the masks of the target, blurred: a map that knows where, but not why."""
    from scipy.ndimage import gaussian_filter

    sigma = [max(1.0, n / 32) for n in masks.shape[1:]]
    return np.stack([gaussian_filter(mask.astype(np.float64), sigma) for mask in masks])


def _edges(image: NDArray[Any]) -> NDArray[Any]:
    """Return the magnitude of the Sobel gradient."""
    from scipy.ndimage import sobel

    squares = [sobel(image, axis) ** 2 for axis in range(image.ndim) if image.shape[axis] > 1]
    magnitude: NDArray[Any] = np.sqrt(np.sum(squares, 0)) if squares else np.zeros_like(image)
    return magnitude
