"""Rectifiers that save a mask, one byte per value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from medcam.engine.memory.lean.common import apply

_aten = torch.ops.aten

_PIECE = 2**18
"""Number of elements processed at once on the CPU; intermediate results then stay in the cache."""


class Relu(Function):
    """ReLU that saves a mask; its graph node has the same name as PyTorch's.

    `medcam.engine.guided` sets ``clamped`` on the node: negative gradients are then set to 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        """Compute ``torch.relu``, in-place if ``inplace`` is set."""
        y = torch.relu_(x) if inplace else torch.relu(x)
        if inplace:
            ctx.mark_dirty(x)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y.bool())
        ctx.clamped = False
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradient where the result is above 0, and 0 elsewhere."""
        (mask,), (grad,) = ctx.saved_tensors, grads
        if grad is None:
            return None, None
        return _masked(_aten.threshold_backward, grad, mask, 0, clamped=ctx.clamped), None


class LeakyRelu(Function):
    """LeakyReLU that saves a mask; node name and ``clamped`` as for `Relu`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, inplace: bool) -> Tensor:
        """Compute ``F.leaky_relu``, in-place if ``inplace`` is set."""
        ctx.set_materialize_grads(False)
        ctx.slope, ctx.clamped = slope, False
        ctx.save_for_backward(_above_zero(x))
        if not inplace:
            return F.leaky_relu(x, slope)
        ctx.mark_dirty(x)
        return F.leaky_relu_(x, slope)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradient where the input is above 0, and the slope times it elsewhere."""
        (mask,), (grad,) = ctx.saved_tensors, grads
        if grad is None:
            return None, None, None
        options = (ctx.slope, False)
        grad_input = _masked(_aten.leaky_relu_backward, grad, mask, *options, clamped=ctx.clamped)
        return grad_input, None, None


def _pieces(*tensors: Tensor) -> Iterator[Sequence[Tensor]]:
    """Return contiguous tensors of one shape piece by piece, or whole where that is faster."""
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() <= _PIECE:
        return iter([tensors])
    return zip(*(torch.split(tensor.view(-1), _PIECE) for tensor in tensors), strict=True)


def _above_zero(x: Tensor) -> Tensor:
    """Return ``x > 0``, computed three times as fast; a NaN counts as above 0."""
    mask = torch.empty_like(x, dtype=torch.bool)
    for x_piece, mask_piece in _pieces(x, mask):
        mask_piece.copy_(x_piece.relu())
    return mask


def _masked(backward: Any, grad: Tensor, mask: Tensor, *options: Any, clamped: bool) -> Tensor:
    """Call PyTorch's kernel, which only tests whether the value is positive.

    So a mask of 0 and 1 can replace the value. The kernel is several times as fast as
    `torch.where`, but converts the mask to the gradient's type; hence the pieces.

    Args:
        backward: The kernel.
        grad: The gradient of the rectifier's result.
        mask: Where the value is above 0.
        options: The kernel's further arguments.
        clamped: Whether negative gradients are set to 0.
    """
    numbers = mask.view(torch.uint8)
    if torch.is_grad_enabled():  # for a second derivative the operations have to be differentiable
        differentiable: Tensor = backward(grad.clamp(min=0) if clamped else grad, numbers, *options)
        return differentiable
    grad_input = torch.empty_like(grad, memory_format=torch.contiguous_format)
    for result, grad_piece, mask_piece in _pieces(grad_input, grad.contiguous(), numbers):
        backward.grad_input(grad_piece, mask_piece, *options, grad_input=result)
        if clamped:  # equal to clamping `grad`, because the factor is not negative; but in-place
            result.clamp_(min=0)
    return grad_input


def relu(input: Tensor, inplace: bool = False) -> Any:  # noqa: A002  # PyTorch's own names
    """Apply the rule for all forms of ReLU."""
    return NotImplemented if inplace and _is_shared(input) else apply(Relu, input, inplace)


def leaky_relu(
    input: Tensor,  # noqa: A002  # PyTorch's own parameter names
    negative_slope: float = 0.01,
    inplace: bool = False,
) -> Any:
    """Apply the rule for ``F.leaky_relu``."""
    if negative_slope <= 0 or (inplace and _is_shared(input)):
        return NotImplemented
    return apply(LeakyRelu, input, negative_slope, inplace)


def _is_shared(x: Tensor) -> bool:
    """Return whether an in-place operation would affect views, or is not allowed (on a leaf)."""
    return x._is_view() or x.is_leaf
