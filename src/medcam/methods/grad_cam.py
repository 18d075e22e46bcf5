"""Grad-CAM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.methods._means import means


def grad_cam_weights(
    gradients: Float[Tensor, "batch channels *layer"],
) -> Float[Tensor, "batch channels"]:
    """Grad-CAM's weights ``α_k``, see `grad_cam`."""
    return means(gradients.flatten(2))


def grad_cam(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
    rectify: bool = True,
) -> Float[Tensor, "batch *layer"]:
    """Grad-CAM: channels weighted by their mean gradient, ``ReLU(Σ_k α_k A^k)``.

    ``α_k = (1/Z) Σ_u G^k_u`` (Selvaraju et al., arXiv 1610.02391, Eq. 1 and 2).

    Means that are no more than rounding are 0, see `medcam.methods._means.means`.

    ``rectify=False`` leaves the last ReLU out, so that evidence against the target is negative.

    >>> A = torch.tensor([[[[1.0, 2], [0, 1]], [[3, 0], [1, 0]]]])
    >>> G = torch.tensor([[[[1, -1], [2, 0.5]], [[0.5, 0.5], [0, -2]]]])
    >>> grad_cam(A, G)
    tensor([[[0.0000, 1.2500],
             [0.0000, 0.6250]]])
    """
    weights = grad_cam_weights(gradients)
    cam = torch.bmm(weights[:, None], activations.flatten(2)).view(-1, *activations.shape[2:])
    return cam.relu() if rectify else cam
