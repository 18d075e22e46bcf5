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
    ``K×K`` covariance, so memory does not grow with the square of the voxels. The covariance is in
    float64: in float32 the solver does not always converge. The sign is arbitrary, see
    `principal_direction`.
    """
    rows = activations.flatten(2)
    rows = rows - rows.mean(2, keepdim=True)
    exact = _with_size(activations)
    exact = exact - exact.mean(2, keepdim=True)
    direction = principal_direction(exact @ exact.transpose(1, 2)).to(rows.dtype)
    projected = torch.einsum("bk,bku->bu", direction, rows)
    return projected.reshape(len(activations), *activations.shape[2:])


_NO_SUM = 1e-3
"""The sum of a unit vector up to which its channels count as cancelling."""


def principal_direction(
    covariance: Float[Tensor, "batch features also_features"],
) -> Float[Tensor, "batch channels"]:
    """Return the direction of most variance among channels, a unit vector with a sign.

    The sign is that of the mean activation. Behind a LayerNorm the channels of every voxel sum to
    zero, and so does the direction: there it is positive where the activations are large.

    Args:
        covariance: The covariance in float64 of the size of a voxel's activations, which comes
            first, and of the channels.
    """
    # eigh fails on NaN; activations that are not finite still reach the map through the rows
    finite = covariance.nan_to_num(0.0, 0.0, 0.0)
    _, vectors = torch.linalg.eigh(finite[:, 1:, 1:])
    first = vectors[:, :, -1]
    total = first.sum(1, keepdim=True)
    with_size = (first * finite[:, 0, 1:]).sum(1, keepdim=True)
    sign = torch.where(total.abs() > _NO_SUM, total, with_size).sign()
    direction: Tensor = first * sign.where(sign != 0, 1.0)
    return direction


def _with_size(
    activations: Float[Tensor, "batch channels *layer"],
) -> Float[Tensor, "batch features voxels"]:
    """Return the size of each voxel's activations and the channels, in float64."""
    rows = activations.flatten(2).double()
    return torch.cat([torch.linalg.vector_norm(rows, dim=1, keepdim=True), rows], 1)


def _moments(
    activations: Float[Tensor, "windows channels *layer"],
) -> Float[Tensor, "windows numbers"]:
    """Return the voxel count, sums and products of the features, for a covariance over windows."""
    rows = _with_size(activations)
    gram = rows @ rows.transpose(1, 2)
    count = rows.new_full((len(rows), 1), rows.shape[2])
    return torch.cat([count, rows.sum(2), gram.flatten(1)], 1)


def _direction_of_sums(
    sums: Float[Tensor, "batch targets numbers"],
) -> tuple[Float[Tensor, "batch targets channels"], Float[Tensor, "batch channels"]]:
    """Return the principal direction of all windows' activations, and their mean."""
    count, products = sums[:, 0, :1], sums[:, 0, 1:]
    features = round((products.shape[1] + 0.25) ** 0.5 - 0.5)  # F sums and F×F products
    mean = products[:, :features] / count
    gram = products[:, features:].reshape(-1, features, features)
    covariance = gram / count[..., None] - mean[:, :, None] * mean[:, None]
    direction = principal_direction(covariance)[:, None]
    return direction.expand(-1, sums.shape[1], -1), mean[:, 1:]


EIGEN_WEIGHTS = SharedWeights(_moments, _direction_of_sums, of_target=False)
"""One direction for all windows: directions of single windows differ in sign and meaning."""
