"""Saliency and input × gradient."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def saliency(
    input_gradients: Float[Tensor, "batch channels *space"],
) -> Float[Tensor, "batch channels *space"]:
    """Return saliency: the gradient of the score with respect to the input.

    Simonyan et al., arXiv 1312.6034; the map is the largest magnitude over the input's channels.
    """
    return input_gradients


def input_x_gradient(
    inputs: Float[Tensor, "batch channels *space"],
    input_gradients: Float[Tensor, "batch channels *space"],
) -> Float[Tensor, "batch channels *space"]:
    """Return input × gradient, ``x ⊙ ∂y/∂x``: first-order contributions of the input values.

    Shrikumar et al., arXiv 1605.01713.
    """
    return inputs * input_gradients
