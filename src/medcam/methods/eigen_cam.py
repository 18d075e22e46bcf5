"""Eigen-CAM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def eigen_cam(
    activations: Float[Tensor, "batch channels *layer"],
) -> Float[Tensor, "batch *layer"]:
    """Eigen-CAM: the activations' first principal component; it knows no class.

    Muhammad and Yeasin, arXiv 2008.00299: the centred activations, one row a voxel, projected on
    their first right singular vector. That vector is the leading eigenvector of the channels'
    ``K×K`` covariance, so the cost in memory does not grow with the square of the voxels. Its sign
    is arbitrary; here it is the one that goes with the mean activation.
    """
    rows = activations.flatten(2)
    rows = rows - rows.mean(2, keepdim=True)
    direction = principal_direction(rows @ rows.transpose(1, 2))
    projected = torch.einsum("bk,bku->bu", direction, rows)
    return projected.reshape(len(activations), *activations.shape[2:])


def principal_direction(
    covariance: Float[Tensor, "batch channels also_channels"],
) -> Float[Tensor, "batch channels"]:
    """The direction of most variance among channels, with the sign of the mean activation."""
    # of activations that are not finite, rows stay so, and with them the map
    _, vectors = torch.linalg.eigh(covariance.nan_to_num(0.0, 0.0, 0.0))
    first = vectors[:, :, -1]
    total = first.sum(1, keepdim=True)
    largest = first.gather(1, first.abs().argmax(1, keepdim=True))
    sign = torch.where(total.abs() > 1e-6, total, largest).sign()
    direction: Tensor = first * sign
    return direction
