"""Guided backpropagation and Guided Grad-CAM."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from medcam.attention import resize
from medcam.methods.grad_cam import grad_cam


def guided_backpropagation(
    guided_gradients: Float[Tensor, "batch channels *space"],
) -> Float[Tensor, "batch channels *space"]:
    """Guided backpropagation: which input values raise the score, signed, per input channel.

    Springenberg et al., arXiv 1412.6806; the rule at the rectifiers is in `medcam.guided`.
    """
    return guided_gradients


def guided_grad_cam(
    guided_gradients: Float[Tensor, "batch channels *space"],
    activations: Float[Tensor, "batch features *layer"],
    gradients: Float[Tensor, "batch features *layer"],
) -> Float[Tensor, "batch channels *space"]:
    """Guided Grad-CAM: guided gradients, weighted by the Grad-CAM map at the input's size.

    Selvaraju et al., arXiv 1610.02391, section 3.2; the Grad-CAM map is made of the unmodified
    gradients and resized linearly. The sign is kept, and nothing is normalised.
    """
    cam = grad_cam(activations, gradients)[:, None]
    return guided_gradients * resize(cam, guided_gradients.shape[2:])
