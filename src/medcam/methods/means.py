"""Mean gradients of channels, in which rounding errors count as zero."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

_ROUNDING_EXPONENT = 0.75
"""Exponent of the threshold ``eps ** exponent``; a mean below it counts as a rounding error.

Means are compared relative to the mean of ``|terms|``. In float32 the threshold is 6e-6. In all
networks tried, instance norms left at most 7e-7; other means were 1e-4 and above.
"""


def rounding_sums(
    sums: Float[Tensor, "batch channels"], terms: Float[Tensor, "batch channels places"]
) -> Bool[Tensor, "batch channels"]:
    """Return which sums over places are rounding errors, as their terms cancel.

    Example:
        >>> terms = torch.tensor([[[1.0, 2.0], [3.0, -3.0]]])
        >>> rounding_sums(terms.sum(2), terms)
        tensor([[False,  True]])
    """
    return is_rounding(sums, torch.linalg.vector_norm(terms, 1, dim=2), terms.dtype)


def is_rounding(
    sums: Float[Tensor, "*any"], sizes: Float[Tensor, "*any"], dtype: torch.dtype
) -> Bool[Tensor, "*any"]:
    """Return which sums are rounding errors.

    Args:
        sums: The sums.
        sizes: The sums of the terms' magnitudes.
        dtype: The type that the terms were computed in.
    """
    flags: Tensor = sums.abs() <= torch.finfo(dtype).eps ** _ROUNDING_EXPONENT * sizes
    return flags


def means(terms: Float[Tensor, "batch channels places"]) -> Float[Tensor, "batch channels"]:
    """Return the mean of each channel; 0 if all means of a sample are rounding errors.

    Before a normalisation that subtracts each channel's mean (instance norm), the gradients of a
    channel cancel exactly. Floating point leaves about 1e-8 of their size, and a map of such
    weights cannot be told from a valid one. If a sample's largest mean exceeds rounding, smaller
    means are kept; they are negligible next to it.

    Example:
        >>> means(torch.tensor([[[1.0, 2.0], [3.0, -3.0]]]))
        tensor([[1.5000, 0.0000]])
    """
    averages = terms.mean(2)
    if terms.device.type == "cpu" and _exceeds_rounding(
        averages.detach().numpy(), terms.detach().numpy()
    ):
        return averages
    rounding = rounding_sums(averages * terms.shape[2], terms)
    return averages.masked_fill(rounding.all(1, keepdim=True), 0.0)


def _exceeds_rounding(averages: NDArray[np.floating], terms: NDArray[np.floating]) -> bool:
    """Return whether each sample's largest mean exceeds rounding; only that channel is read.

    Uses NumPy: PyTorch's call overhead exceeds the work.
    """
    least = np.finfo(terms.dtype).eps ** _ROUNDING_EXPONENT / terms.shape[2]  # times Σ|terms|
    samples, sizes = np.arange(len(terms)), np.abs(averages)
    top = sizes.argmax(1)
    sums = np.add.reduce(np.abs(terms[samples, top]), 1)
    return bool(np.logical_and.reduce(sizes[samples, top] > least * sums))
