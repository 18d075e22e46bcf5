"""Pooling that saves indices, or nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from medcam.engine.memory.lean.common import HALF, Rule, apply, per_axis, placeholder

_aten = torch.ops.aten


class _MaxPool(Function):
    """Max pooling that saves the indices of the maxima."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: Any, pool_backward: Any, *options: Any) -> Tensor:
        y, indices = pool(x, *options)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(indices)
        ctx.shape, ctx.pool_backward, ctx.options = x.shape, pool_backward, options
        return y  # type: ignore[no-any-return]  # `pool` is one of aten's

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (indices,), (grad,) = ctx.saved_tensors, grads
        if grad is None:
            return (None,) * (3 + len(ctx.options))
        x = placeholder(grad, ctx.shape)
        return ctx.pool_backward(grad, x, *ctx.options, indices), *[None] * (2 + len(ctx.options))


class _AvgPool(Function):
    """Average pooling that saves nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: Any, pool_backward: Any, *options: Any) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.pool_backward, ctx.options = x.shape, pool_backward, options
        return pool(x, *options)  # type: ignore[no-any-return]  # `pool` is one of aten's

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if grad is None:
            return (None,) * (3 + len(ctx.options))
        x = placeholder(grad, ctx.shape)
        return ctx.pool_backward(grad, x, *ctx.options), *[None] * (2 + len(ctx.options))


def max_pool(dims: int) -> Rule:
    """Return the rule for ``F.max_pool{2,3}d``."""
    forward = getattr(_aten, f"max_pool{dims}d_with_indices")
    backward = getattr(_aten, f"max_pool{dims}d_with_indices_backward")

    def rule(
        input: Tensor,  # noqa: A002  # PyTorch's own parameter names
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        if return_indices or input.ndim != dims + 2:
            return NotImplemented
        size = per_axis(kernel_size, dims)
        step = per_axis(stride, dims) if stride is not None and stride != () else size
        return apply(_MaxPool,
            input, forward, backward, size, step, per_axis(padding, dims), per_axis(dilation, dims),
            ceil_mode,
        )  # fmt: skip

    return rule


def avg_pool(dims: int) -> Rule:
    """Return the rule for ``F.avg_pool{2,3}d``."""
    forward = getattr(_aten, f"avg_pool{dims}d")
    backward = getattr(_aten, f"avg_pool{dims}d_backward")

    def rule(
        input: Tensor,  # noqa: A002  # PyTorch's own parameter names
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        if input.ndim != dims + 2 or input.dtype in HALF:
            return NotImplemented
        size = per_axis(kernel_size, dims)
        step = per_axis(stride, dims) if stride is not None and stride != () else size
        return apply(_AvgPool,
            input, forward, backward, size, step, per_axis(padding, dims), ceil_mode,
            count_include_pad, divisor_override,
        )  # fmt: skip

    return rule
