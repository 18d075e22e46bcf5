"""XGrad-CAM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def x_grad_cam(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
    rectify: bool = True,
) -> Float[Tensor, "batch *layer"]:
    """Return XGrad-CAM: Grad-CAM with gradients averaged by activation, ``ReLU(Σ_k w_k A^k)``.

    ``w_k = Σ_u G^k_u A^k_u / Σ_u A^k_u`` (Fu et al., arXiv 2008.02312, Eq. 9), and 0 for a channel
    whose activations sum to 0.

    ``rectify=False`` omits the last ReLU, so that evidence against the target is negative.
    """
    total = activations.flatten(2).sum(2)
    weights = (gradients * activations).flatten(2).sum(2) / total.where(total != 0, 1.0)
    weights = weights.where(total != 0, 0.0)
    cam = torch.einsum("bk,bk...->b...", weights, activations)
    return cam.relu() if rectify else cam
