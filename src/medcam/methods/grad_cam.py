"""Grad-CAM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def grad_cam(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
    rectify: bool = True,
) -> Float[Tensor, "batch *layer"]:
    """Grad-CAM: channels weighted by their mean gradient, ``ReLU(Σ_k α_k A^k)``.

    ``α_k = (1/Z) Σ_u G^k_u`` (Selvaraju et al., arXiv 1610.02391, Eq. 1 and 2).

    ``rectify=False`` leaves the last ReLU out, so that evidence against the target is negative.

    >>> A = torch.tensor([[[[1.0, 2], [0, 1]], [[3, 0], [1, 0]]]])
    >>> G = torch.tensor([[[[1, -1], [2, 0.5]], [[0.5, 0.5], [0, -2]]]])
    >>> grad_cam(A, G)
    tensor([[[0.0000, 1.2500],
             [0.0000, 0.6250]]])
    """
    weights = gradients.flatten(2).mean(2, keepdim=True)
    cam = torch.bmm(weights.mT, activations.flatten(2)).view(-1, *activations.shape[2:])
    return cam.relu() if rectify else cam
