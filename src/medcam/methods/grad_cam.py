"""Grad-CAM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.methods.means import means
from medcam.methods.method import SharedWeights


def grad_cam_weights(
    gradients: Float[Tensor, "batch channels *layer"],
) -> Float[Tensor, "batch channels"]:
    """Return Grad-CAM's channel weights ``α_k``, see `grad_cam`."""
    return means(gradients.flatten(2))


def summed_weights(
    sums: Float[Tensor, "batch targets channels"],
) -> tuple[Float[Tensor, "batch targets channels"], Float[Tensor, "batch channels"]]:
    """Return weights that the windows' own were summed to, with no offset."""
    return sums, torch.zeros_like(sums[:, 0])


MEAN_GRADIENTS = SharedWeights(grad_cam_weights, summed_weights, of_target=True)
"""Grad-CAM's weights of a whole volume: the mean gradient of the stitched target."""


def grad_cam(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
    rectify: bool = True,
) -> Float[Tensor, "batch *layer"]:
    """Return Grad-CAM: channels weighted by their mean gradient, ``ReLU(Σ_k α_k A^k)``.

    ``α_k = (1/Z) Σ_u G^k_u`` (Selvaraju et al., arXiv 1610.02391, Eq. 1 and 2).

    A mean within rounding error of zero counts as 0, see `medcam.methods.means.means`.

    ``rectify=False`` omits the last ReLU, so that evidence against the target is negative.

    Example:
        >>> A = torch.tensor([[[[1.0, 2], [0, 1]], [[3, 0], [1, 0]]]])
        >>> G = torch.tensor([[[[1, -1], [2, 0.5]], [[0.5, 0.5], [0, -2]]]])
        >>> grad_cam(A, G)
        tensor([[[0.0000, 1.2500],
                 [0.0000, 0.6250]]])
    """
    weights = grad_cam_weights(gradients)
    cam = torch.bmm(weights[:, None], activations.flatten(2)).view(-1, *activations.shape[2:])
    return cam.relu() if rectify else cam
