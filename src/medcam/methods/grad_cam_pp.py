"""Grad-CAM++."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.methods.grad_cam import summed_weights
from medcam.methods.method import SharedWeights


def grad_cam_pp(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
    rectify: bool = True,
) -> Float[Tensor, "batch *layer"]:
    """Return Grad-CAM++: channels weighted by the weighted sum of their positive gradients.

    Chattopadhay et al., arXiv 1710.11063, Eq. 19 with ``Y = exp(y)``: ``α^k_u = G² / (2G² + S^k
    G³)``, ``w_k = e^y Σ_u α^k_u ReLU(G^k_u)``, with ``S^k = Σ_u A^k_u``. Only ``G > 0``
    contributes, so the formula is computed as ``w_k = Σ_{G>0} G / (2 + G S^k)``, without
    cancellation, underflow or an epsilon. Two differences: the positive factor ``e^y`` is dropped,
    and ``S^k`` sums ``ReLU(A)``, since with negative activations the denominator could cross zero.

    ``rectify=False`` omits the last ReLU, so that evidence against the target is negative.

    Example:
        >>> A = torch.tensor([[[[1.0, 2], [0, 1]], [[3, 0], [1, 0]]]])
        >>> G = torch.tensor([[[[1, -1], [2, 0.5]], [[0.5, 0.5], [0, -2]]]])
        >>> grad_cam_pp(A, G)
        tensor([[[1.2417, 0.9833],
                 [0.2500, 0.4917]]])
    """
    weights = grad_cam_pp_weights(activations, gradients)
    cam = torch.einsum("bk,bk...->b...", weights, activations)
    return cam.relu() if rectify else cam


def grad_cam_pp_weights(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
) -> Float[Tensor, "batch channels"]:
    """Return Grad-CAM++'s channel weights ``w_k``, see `grad_cam_pp`."""
    positive = gradients.flatten(2).relu()
    total = activations.flatten(2).relu().sum(2, keepdim=True)
    return (positive / (2 + positive * total)).sum(2)


POSITIVE_GRADIENTS = SharedWeights(grad_cam_pp_weights, summed_weights, of_target=True)
"""Grad-CAM++'s weights of a whole volume: the sum of the windows' weights."""
