"""Convolutions that save only their weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from medcam.engine.memory.lean.common import Rule, apply, frozen, per_axis, placeholder
from medcam.engine.model.devices import autocast_dtype

_aten = torch.ops.aten


class _Convolution(Function):
    """``torch.convolution`` for frozen parameters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight)
        ctx.shape, ctx.biased, ctx.options = x.shape, bias is not None, options
        return torch.convolution(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (weight,), (grad,) = ctx.saved_tensors, grads
        if grad is None:
            return (None,) * (3 + len(ctx.options))
        transposed, groups = ctx.options[3], ctx.options[5]
        sizes = [weight.shape[1] * groups if transposed else weight.shape[0]]
        x = placeholder(grad, ctx.shape)
        mask = [True, False, False]
        gradients = _aten.convolution_backward(
            grad, x, weight, sizes if ctx.biased else None, *ctx.options, mask
        )
        return gradients[0], *[None] * (2 + len(ctx.options))


def _autocast(x: Tensor, *parameters: Tensor | None) -> Sequence[Tensor | None]:
    """Return the tensors in the type that autocast chooses for a convolution."""
    dtype, tensors = autocast_dtype(x.device.type), (x, *parameters)
    if dtype is None:
        return tensors
    return [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors]


def convolution(dims: int, *, transposed: bool) -> Rule:
    """Return the rule for ``torch.conv{2,3}d``, or its transposed form."""

    def rule(
        input: Tensor,  # noqa: A002  # PyTorch's own parameter names
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        *rest: Any,
        **named: Any,
    ) -> Any:
        order = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
        options = {"output_padding": 0, "groups": 1, "dilation": 1}
        options.update(zip(order, rest, strict=False))
        options.update(named)
        if isinstance(padding, str) or not frozen(weight, bias) or input.ndim != dims + 2:
            return NotImplemented
        x, w, b = _autocast(input, weight, bias)
        return apply(_Convolution,
            x, w, b, per_axis(stride, dims), per_axis(padding, dims),
            per_axis(options["dilation"], dims), transposed,
            per_axis(options["output_padding"], dims), options["groups"],
        )  # fmt: skip

    return rule
