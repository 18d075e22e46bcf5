"""Guided backpropagation and Guided Grad-CAM."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from medcam.maps import resample
from medcam.methods.grad_cam import grad_cam


def guided_backpropagation(
    guided_gradients: Float[Tensor, "batch channels *space"],
) -> Float[Tensor, "batch channels *space"]:
    """Return guided backpropagation: the signed guided gradient of each input value.

    Springenberg et al., arXiv 1412.6806; the rule at the rectifiers is in `medcam.engine.guided`.
    """
    return guided_gradients


def guided_grad_cam(
    guided_gradients: Float[Tensor, "batch channels *space"],
    activations: Float[Tensor, "batch features *layer"],
    gradients: Float[Tensor, "batch features *layer"],
) -> Float[Tensor, "batch channels *space"]:
    """Return Guided Grad-CAM: guided gradients times the Grad-CAM map at the input's size.

    Selvaraju et al., arXiv 1610.02391, section 3.2; the Grad-CAM map is computed from the plain
    gradients and resampled to the input. The sign is kept, and nothing is normalised.
    """
    cam = grad_cam(activations, gradients)[:, None]
    return weighted_by_cam(guided_gradients, resample(cam, guided_gradients.shape[2:])[:, 0])


def weighted_by_cam(
    guided_gradients: Float[Tensor, "batch channels *space"],
    cam: Float[Tensor, "batch *space"],
) -> Float[Tensor, "batch channels *space"]:
    """Return guided gradients with each channel multiplied by the CAM."""
    return guided_gradients * cam[:, None]
