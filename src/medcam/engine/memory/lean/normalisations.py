"""Batch norms in evaluation mode that save only their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from medcam.engine.memory.lean.common import HALF, apply, frozen, placeholder

_aten = torch.ops.aten

_LARGE = 2**20
"""Number of elements from which the CPU's kernel is slower than two multiplications."""


class _BatchNorm(Function):
    """``F.batch_norm`` with running statistics, for frozen parameters."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mean, var, weight)
        ctx.shape, ctx.eps, ctx.dtype = x.shape, eps, x.dtype
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (mean, var, weight), (grad,) = ctx.saved_tensors, grads
        if grad is None:
            return (None,) * 6
        grad = grad.contiguous()
        if _is_large(grad) and grad.dtype == ctx.dtype == var.dtype:
            return _scaled(grad, mean, var, weight, ctx.eps), *[None] * 5
        x = placeholder(grad, ctx.shape, ctx.dtype)
        return _kernel(grad, x, mean, var, weight, ctx.eps), *[None] * 5


def _kernel(
    grad: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, eps: float
) -> Tensor:
    """Return the gradient of PyTorch's own kernel."""
    mask = [True, False, False]
    gradients: Sequence[Tensor] = _aten.native_batch_norm_backward(
        grad, x, weight, mean, var, None, None, False, eps, mask
    )
    return gradients[0]


def _is_large(grad: Tensor) -> bool:
    """Return whether to bypass the CPU kernel, which also reduces over the input."""
    return grad.device.type == "cpu" and grad.numel() >= _LARGE


def _scaled(grad: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Return the kernel's result as ``grad · factor · weight``, with one factor per channel.

    The factor is the kernel's own result for a gradient of 1, so the product is the same bit for
    bit.
    """
    ones = grad.new_ones((1, len(var), 1))
    channels = [1, -1, *[1] * (grad.ndim - 2)]
    scaled = grad * _kernel(ones, ones, mean, var, None, eps).view(channels)
    if weight is None:
        return scaled
    weights = weight.view(channels)
    return scaled * weights if torch.is_grad_enabled() else scaled.mul_(weights)


def batch_norm(
    input: Tensor,  # noqa: A002  # PyTorch's own parameter names
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Apply the rule for ``F.batch_norm`` where it uses running statistics."""
    if training or running_mean is None or running_var is None or not frozen(weight, bias):
        return NotImplemented
    if input.dtype in HALF:
        return NotImplemented
    return apply(_BatchNorm, input, running_mean, running_var, weight, bias, eps)


def instance_norm(
    input: Tensor,  # noqa: A002  # PyTorch's own parameter names
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Apply the rule for ``F.instance_norm``: it saves as much, but its output is not a view.

    An in-place rectifier on a view cannot save a mask instead of its result. The base of the view
    is not used anywhere else, and no gradient needs its values: they may be overwritten.
    """
    output = F.instance_norm(input, *args, **kwargs)
    return _aten._unsafe_view(output, output.shape) if output._is_view() else output
