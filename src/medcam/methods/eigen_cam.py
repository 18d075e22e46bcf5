"""Eigen-CAM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.methods.method import SharedWeights


def eigen_cam(
    activations: Float[Tensor, "batch channels *layer"],
) -> Float[Tensor, "batch *layer"]:
    """Return Eigen-CAM: the activations' first principal component, which ignores the target.

    Muhammad and Yeasin, arXiv 2008.00299: the centred activations, one row per voxel, projected on
    their first right singular vector. That vector is the leading eigenvector of the channels'
    ``K×K`` covariance, so memory does not grow with the square of the voxels. Its sign is
    arbitrary; here it is that of the mean activation.
    """
    rows = activations.flatten(2)
    rows = rows - rows.mean(2, keepdim=True)
    direction = principal_direction(rows @ rows.transpose(1, 2))
    projected = torch.einsum("bk,bku->bu", direction, rows)
    return projected.reshape(len(activations), *activations.shape[2:])


def principal_direction(
    covariance: Float[Tensor, "batch channels also_channels"],
) -> Float[Tensor, "batch channels"]:
    """Return the direction of most variance among channels, with the mean activation's sign."""
    # eigh fails on NaN; activations that are not finite still reach the map through the rows
    _, vectors = torch.linalg.eigh(covariance.nan_to_num(0.0, 0.0, 0.0))
    first = vectors[:, :, -1]
    total = first.sum(1, keepdim=True)
    largest = first.gather(1, first.abs().argmax(1, keepdim=True))
    sign = torch.where(total.abs() > 1e-6, total, largest).sign()
    direction: Tensor = first * sign
    return direction


def _moments(
    activations: Float[Tensor, "windows channels *layer"],
) -> Float[Tensor, "windows numbers"]:
    """Return the voxel count, channel sums and products, for a covariance over windows."""
    rows = activations.flatten(2).double()
    gram = rows @ rows.transpose(1, 2)
    count = rows.new_full((len(rows), 1), rows.shape[2])
    return torch.cat([count, rows.sum(2), gram.flatten(1)], 1)


def _direction_of_sums(
    sums: Float[Tensor, "batch targets numbers"],
) -> tuple[Float[Tensor, "batch targets channels"], Float[Tensor, "batch channels"]]:
    """Return the principal direction of all windows' activations, and their mean."""
    count, products = sums[:, 0, :1], sums[:, 0, 1:]
    channels = round((products.shape[1] + 0.25) ** 0.5 - 0.5)  # K sums and K×K products
    mean = products[:, :channels] / count
    gram = products[:, channels:].reshape(-1, channels, channels)
    covariance = gram / count[..., None] - mean[:, :, None] * mean[:, None]
    direction = principal_direction(covariance)[:, None]
    return direction.expand(-1, sums.shape[1], -1), mean


EIGEN_WEIGHTS = SharedWeights(_moments, _direction_of_sums, of_target=False)
"""One direction for all windows: directions of single windows differ in sign and meaning."""
