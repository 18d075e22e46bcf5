"""XGrad-CAM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.methods.means import rounding_sums


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
