"""Rectifiers that keep a mask, one byte a value."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from medcam.lean._common import apply

_aten = torch.ops.aten
# PyTorch's own backward kernels read of the value only whether it is above 0, so that a mask of
# 0 and 1 stands for it; they are several times as fast as `torch.where`.


class Relu(Function):
    """ReLU that keeps a mask; its node has the name of PyTorch's, for `medcam.guided`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        """As ``torch.relu``, in place if asked to."""
        y = torch.relu_(x) if inplace else torch.relu(x)
        if inplace:
            ctx.mark_dirty(x)
        ctx.save_for_backward(~(y <= 0))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient where the result is above 0."""
        (mask,), (grad,) = ctx.saved_tensors, grads
        return _aten.threshold_backward(grad, mask.view(torch.uint8), 0), None


class LeakyRelu(Function):
    """LeakyReLU that keeps a mask; its node has the name of PyTorch's, for `medcam.guided`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, inplace: bool) -> Tensor:
        """As ``F.leaky_relu``, in place if asked to."""
        ctx.slope = slope
        ctx.save_for_backward(x > 0)
        if not inplace:
            return F.leaky_relu(x, slope)
        ctx.mark_dirty(x)
        return F.leaky_relu_(x, slope)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient where the input is above 0, elsewhere times the slope."""
        (mask,), (grad,) = ctx.saved_tensors, grads
        mask = mask.view(torch.uint8)
        return _aten.leaky_relu_backward(grad, mask, ctx.slope, False), None, None


def relu(input: Tensor, inplace: bool = False) -> Any:  # noqa: A002  # PyTorch's own names
    """The rule for ReLU in its many spellings."""
    return NotImplemented if inplace and _is_shared(input) else apply(Relu, input, inplace)


def leaky_relu(
    input: Tensor,  # noqa: A002  # PyTorch's own parameter names
    negative_slope: float = 0.01,
    inplace: bool = False,
) -> Any:
    """The rule for ``F.leaky_relu``."""
    if negative_slope < 0 or (inplace and _is_shared(input)):
        return NotImplemented
    return apply(LeakyRelu, input, negative_slope, inplace)


def _is_shared(x: Tensor) -> bool:
    """Whether an in-place operation would have to follow views, or is not allowed at all."""
    return x._is_view() or x.is_leaf
