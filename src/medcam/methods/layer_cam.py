"""LayerCAM."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def layer_cam(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
    rectify: bool = True,
) -> Float[Tensor, "batch *layer"]:
    """Return LayerCAM: voxels weighted by their positive gradient, ``ReLU(Σ_k ReLU(G^k) ⊙ A^k)``.

    Jiang et al., IEEE TIP 30 (2021), Eq. 5 to 7.

    ``rectify=False`` omits the last ReLU, so that evidence against the target is negative.
    """
    cam = (gradients.relu() * activations).sum(1)
    return cam.relu() if rectify else cam
