"""Independent references: activations and gradients from hooks and autograd, and CAM formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def evidence(
    net: nn.Module, layer: str, x: Tensor, score: Callable[[Any], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the output of the layer's last call, and the gradient of the score.

    The network must not change that tensor in place.
    """
    kept: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: kept.append(output)
    )
    output = net(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(score(output).sum(), kept[-1])
    return kept[-1].detach(), gradient


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return Grad-CAM, ``[batch, 1, *layer]``."""
    weights = gradients.mean(tuple(range(2, gradients.ndim)), keepdim=True)
    return (weights * activations).sum(1, keepdim=True).clamp(min=0)


def grad_cam_pp(activations: Tensor, gradients: Tensor, *, divided: bool = True) -> Tensor:
    """Return Grad-CAM++ by Eq. 19 of its paper; ``divided=False`` omits the denominator."""
    axes = tuple(range(2, gradients.ndim))
    total = activations.sum(axes, keepdim=True)
    denominator = 2 * gradients**2 + total * gradients**3
    alpha = gradients**2 / denominator if divided else gradients**2
    alpha = torch.where(gradients > 0, alpha, 0)
    weights = (alpha * gradients.clamp(min=0)).sum(axes, keepdim=True)
    return (weights * activations).sum(1, keepdim=True).clamp(min=0)


def x_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return XGrad-CAM, ``[batch, 1, *layer]``."""
    axes = tuple(range(2, gradients.ndim))
    total = activations.sum(axes, keepdim=True)
    share = torch.where(total == 0, 0, activations / torch.where(total == 0, 1, total))
    weights = (gradients * share).sum(axes, keepdim=True)
    return (weights * activations).sum(1, keepdim=True).clamp(min=0)


class GuidedLeakyReLU(torch.autograd.Function):
    """A leaky ReLU whose backward pass clamps negative gradients to zero; slope 0 is the ReLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ones = torch.ones_like(x)
        derivative = torch.where(x > 0, ones, slope * ones)
        ctx.save_for_backward(derivative)
        return x * derivative

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (derivative,) = ctx.saved_tensors
        return gradient.clamp(min=0) * derivative, None
