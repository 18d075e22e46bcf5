"""Rectifiers that keep a mask, one byte a value."""

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
"""Elements at once on the CPU: what is made of them in between stays in the cache."""


class Relu(Function):
    """ReLU that keeps a mask; its node has the name of PyTorch's.

    `medcam.engine.guided` sets ``clamped`` on the node, for gradients below 0 to count as 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        """As ``torch.relu``, in place if asked to."""
        y = torch.relu_(x) if inplace else torch.relu(x)
        if inplace:
            ctx.mark_dirty(x)
        ctx.save_for_backward(y.bool())
        ctx.clamped = False
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient where the result is above 0."""
        (mask,), (grad,) = ctx.saved_tensors, grads
        return _masked(_aten.threshold_backward, grad, mask, 0, clamped=ctx.clamped), None


class LeakyRelu(Function):
    """LeakyReLU that keeps a mask; its node has the name of PyTorch's, and ``clamped`` as above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, inplace: bool) -> Tensor:
        """As ``F.leaky_relu``, in place if asked to."""
        ctx.slope, ctx.clamped = slope, False
        ctx.save_for_backward(_above_zero(x))
        if not inplace:
            return F.leaky_relu(x, slope)
        ctx.mark_dirty(x)
        return F.leaky_relu_(x, slope)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient where the input is above 0, elsewhere times the slope."""
        (mask,), (grad,) = ctx.saved_tensors, grads
        options = (ctx.slope, False)
        given = _masked(_aten.leaky_relu_backward, grad, mask, *options, clamped=ctx.clamped)
        return given, None, None


def _pieces(*tensors: Tensor) -> Iterator[Sequence[Tensor]]:
    """Tensors of one shape piece by piece, where that is faster; they have to be contiguous."""
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() <= _PIECE:
        return iter([tensors])
    return zip(*(torch.split(tensor.view(-1), _PIECE) for tensor in tensors), strict=True)


def _above_zero(x: Tensor) -> Tensor:
    """``x > 0``, but three times as fast; a NaN counts as above."""
    mask = torch.empty_like(x, dtype=torch.bool)
    for part, inside in _pieces(x, mask):
        inside.copy_(part.relu())
    return mask


def _masked(backward: Any, grad: Tensor, mask: Tensor, *options: Any, clamped: bool) -> Tensor:
    """PyTorch's own kernel for the gradient, which reads of the value whether it is above 0 only.

    So a mask of 0 and 1 stands for the value; the kernel is several times as fast as `torch.where`,
    but turns all of the mask into numbers of the gradient's type first.
    """
    if torch.is_grad_enabled():  # somebody differentiates again
        entering = grad.clamp(min=0) if clamped else grad
        twice: Tensor = backward(entering, mask.view(torch.uint8), *options)
        return twice
    given = torch.empty_like(grad, memory_format=torch.contiguous_format)
    for into, part, inside in _pieces(given, grad.contiguous(), mask.view(torch.uint8)):
        backward.grad_input(part, inside, *options, grad_input=into)
        if clamped:  # the same as before it, since the factor is not below 0; but in place
            into.clamp_(min=0)
    return given


def relu(input: Tensor, inplace: bool = False) -> Any:  # noqa: A002  # PyTorch's own names
    """The rule for ReLU in its many spellings."""
    return NotImplemented if inplace and _is_shared(input) else apply(Relu, input, inplace)


def leaky_relu(
    input: Tensor,  # noqa: A002  # PyTorch's own parameter names
    negative_slope: float = 0.01,
    inplace: bool = False,
) -> Any:
    """The rule for ``F.leaky_relu``."""
    if negative_slope <= 0 or (inplace and _is_shared(input)):
        return NotImplemented
    return apply(LeakyRelu, input, negative_slope, inplace)


def _is_shared(x: Tensor) -> bool:
    """Whether an in-place operation would have to follow views, or is not allowed at all."""
    return x._is_view() or x.is_leaf
