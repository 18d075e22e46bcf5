"""HiResCAM."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def hires_cam(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
) -> Float[Tensor, "batch *layer"]:
    """Return HiResCAM: each voxel's own contribution, ``Σ_k G^k ⊙ A^k``, signed.

    Draelos and Carin, arXiv 2011.08891. Where one linear layer follows, the map sums to the score
    without its bias. There is no ReLU; the paper's figures apply one for display.
    """
    return (gradients * activations).sum(1)
