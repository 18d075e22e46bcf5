"""XGrad-CAM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.methods.means import is_rounding, rounding_sums
from medcam.methods.method import SharedWeights


def x_grad_cam(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
    rectify: bool = True,
) -> Float[Tensor, "batch *layer"]:
    """Return XGrad-CAM: Grad-CAM with gradients averaged by activation, ``ReLU(Σ_k w_k A^k)``.

    ``w_k = Σ_u G^k_u A^k_u / Σ_u A^k_u`` (Fu et al., arXiv 2008.02312, Eq. 9), and 0 for a channel
    whose activations sum to 0. Behind a normalisation that subtracts each channel's mean (instance
    norm) every sum is a rounding error, which counts as 0: the map is zero there.

    ``rectify=False`` omits the last ReLU, so that evidence against the target is negative.
    """
    cam = torch.einsum("bk,bk...->b...", x_grad_cam_weights(activations, gradients), activations)
    return cam.relu() if rectify else cam


def _sums(
    activations: Float[Tensor, "windows channels *layer"],
    gradients: Float[Tensor, "windows channels *layer"],
) -> Float[Tensor, "windows numbers"]:
    """Return the numerators and denominators of the weights, and the sums of ``|A|``."""
    rows = activations.flatten(2).double()
    weighted = (gradients.flatten(2).double() * rows).sum(2)
    return torch.cat([weighted, rows.sum(2), rows.abs().sum(2)], 1)


def _weights_of_sums(
    sums: Float[Tensor, "batch targets numbers"],
) -> tuple[Float[Tensor, "batch targets channels"], Float[Tensor, "batch channels"]]:
    """Return the weights of a volume, with no offset."""
    weighted, total, size = sums.chunk(3, 2)
    unknown = is_rounding(total, size, torch.float32)
    weights = (weighted / total.masked_fill(unknown, 1.0)).masked_fill(unknown, 0.0)
    return weights, torch.zeros_like(weights[:, 0])


ACTIVATION_WEIGHTED_GRADIENTS = SharedWeights(_sums, _weights_of_sums, of_target=True)
"""XGrad-CAM's weights of a whole volume, over the windows that hold the target."""


def x_grad_cam_weights(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
) -> Float[Tensor, "batch channels"]:
    """Return XGrad-CAM's channel weights ``w_k``, see `x_grad_cam`."""
    rows = activations.flatten(2)
    total = rows.sum(2)
    unknown = rounding_sums(total, rows)
    weights = (gradients * activations).flatten(2).sum(2) / total.masked_fill(unknown, 1.0)
    return weights.masked_fill(unknown, 0.0)
