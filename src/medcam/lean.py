"""Operations that keep for the backward pass only what gradients of *activations* need.

PyTorch keeps the input of a convolution, an evaluated batch norm and a pooling, although with
frozen parameters only its shape is needed; and a rectifier keeps its result in full, although one
bit a value is enough. The functions here call the same kernels, forwards and backwards, so that
predictions and gradients are the same bit for bit; the input is replaced by a placeholder of its
shape. Whatever they do not cover (parameters that require gradients, tensor subclasses, other
memory layouts, padding by name) runs as PyTorch has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten
Rule = Callable[..., Any]

_HALF = (torch.float16, torch.bfloat16)
"""Where some kernels choose another order of summation for a placeholder."""


class LeanBackward(TorchFunctionMode):
    """Within it, covered operations on plain tensors save less."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation in its lean form if it has one and its arguments fit."""
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        if rule is not None and args and _fits(args[0]):
            result = rule(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)


def is_to_blame(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, was raised in this module."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == __file__ and trace.tb_next is None:
                return True
            trace = trace.tb_next
        error = error.__cause__
    return False


def _fits(x: Any) -> bool:
    return type(x) is Tensor and x.requires_grad and x.is_contiguous() and torch.is_grad_enabled()


def _apply(function: Any, *args: Any) -> Any:  # `Function.apply` has no annotations
    return function.apply(*args)


def _frozen(*tensors: Tensor | None) -> bool:
    """Whether no gradient is wanted for any of these parameters."""
    return not any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _like(grad: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """A placeholder of a shape that takes no memory; kernels read its shape only."""
    return grad.new_empty(1, dtype=dtype).expand(shape)


# -------------------------------------------------------------------------------- convolutions


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.biased, ctx.options = x.shape, bias is not None, options
        return torch.convolution(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,), (grad,) = ctx.saved_tensors, grads
        transposed, groups = ctx.options[3], ctx.options[5]
        sizes = [weight.shape[1] * groups if transposed else weight.shape[0]]
        x = _like(grad, ctx.shape)
        mask = [True, False, False]
        given = _aten.convolution_backward(
            grad, x, weight, sizes if ctx.biased else None, *ctx.options, mask
        )
        return given[0], *[None] * (2 + len(ctx.options))


def _each(value: int | Sequence[int], dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else [*value] * (dims if len(value) == 1 else 1)


def _amp(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors as autocast would give them to a convolution."""
    device = next(t.device.type for t in tensors if t is not None)
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors]


def _convolution(dims: int, *, transposed: bool) -> Rule:
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
        if isinstance(padding, str) or not _frozen(weight, bias) or input.ndim != dims + 2:
            return NotImplemented
        x, w, b = _amp(input, weight, bias)
        return _apply(_Convolution,
            x, w, b, _each(stride, dims), _each(padding, dims), _each(options["dilation"], dims),
            transposed, _each(options["output_padding"], dims), options["groups"],
        )  # fmt: skip

    return rule


# ------------------------------------------------------------------------------ normalisations


class _BatchNorm(Function):
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
        ctx.save_for_backward(mean, var, weight)
        ctx.shape, ctx.eps, ctx.dtype = x.shape, eps, x.dtype
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (mean, var, weight), (grad,) = ctx.saved_tensors, grads
        x = _like(grad, ctx.shape, ctx.dtype)
        mask = [True, False, False]
        given = _aten.native_batch_norm_backward(
            grad.contiguous(), x, weight, mean, var, None, None, False, ctx.eps, mask
        )
        return given[0], *[None] * 5


def _batch_norm(
    input: Tensor,  # noqa: A002  # PyTorch's own parameter names
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training or running_mean is None or running_var is None or not _frozen(weight, bias):
        return NotImplemented
    if input.dtype in _HALF:
        return NotImplemented
    return _apply(_BatchNorm, input, running_mean, running_var, weight, bias, eps)


# ---------------------------------------------------------------------------------- rectifiers


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
        return torch.where(mask, grad, 0.0), None


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
        return torch.where(mask, grad, grad * ctx.slope), None, None


def _relu(input: Tensor, inplace: bool = False) -> Any:  # noqa: A002  # PyTorch's own names
    return NotImplemented if inplace and _is_shared(input) else _apply(Relu, input, inplace)


def _leaky_relu(
    input: Tensor,  # noqa: A002  # PyTorch's own parameter names
    negative_slope: float = 0.01,
    inplace: bool = False,
) -> Any:
    if negative_slope < 0 or (inplace and _is_shared(input)):
        return NotImplemented
    return _apply(LeakyRelu, input, negative_slope, inplace)


def _is_shared(x: Tensor) -> bool:
    """Whether an in-place operation would have to follow views, or is not allowed at all."""
    return x._is_view() or x.is_leaf


# ------------------------------------------------------------------------------------- pooling


class _MaxPool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: Any, back: Any, *options: Any) -> Tensor:
        y, indices = pool(x, *options)
        ctx.save_for_backward(indices)
        ctx.shape, ctx.back, ctx.options = x.shape, back, options
        return y  # type: ignore[no-any-return]  # `pool` is one of aten's

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (indices,), (grad,) = ctx.saved_tensors, grads
        x = _like(grad, ctx.shape)
        return ctx.back(grad, x, *ctx.options, indices), *[None] * (2 + len(ctx.options))


class _AvgPool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: Any, back: Any, *options: Any) -> Tensor:
        ctx.shape, ctx.back, ctx.options = x.shape, back, options
        return pool(x, *options)  # type: ignore[no-any-return]  # `pool` is one of aten's

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x = _like(grad, ctx.shape)
        return ctx.back(grad, x, *ctx.options), *[None] * (2 + len(ctx.options))


def _max_pool(dims: int) -> Rule:
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
        size = _each(kernel_size, dims)
        step = _each(stride, dims) if stride is not None and stride != () else size
        return _apply(_MaxPool,
            input, forward, backward, size, step, _each(padding, dims), _each(dilation, dims),
            ceil_mode,
        )  # fmt: skip

    return rule


def _avg_pool(dims: int) -> Rule:
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
        if input.ndim != dims + 2 or input.dtype in _HALF:
            return NotImplemented
        size = _each(kernel_size, dims)
        step = _each(stride, dims) if stride is not None and stride != () else size
        return _apply(_AvgPool,
            input, forward, backward, size, step, _each(padding, dims), ceil_mode,
            count_include_pad, divisor_override,
        )  # fmt: skip

    return rule


_RULES: dict[Any, Rule] = {
    torch.conv2d: _convolution(2, transposed=False),
    torch.conv3d: _convolution(3, transposed=False),
    torch.conv_transpose2d: _convolution(2, transposed=True),
    torch.conv_transpose3d: _convolution(3, transposed=True),
    F.batch_norm: _batch_norm,
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    torch.relu_: lambda x: _relu(x, True),
    Tensor.relu_: lambda x: _relu(x, True),
    F.leaky_relu: _leaky_relu,
    torch.max_pool2d: _max_pool(2),
    torch.max_pool3d: _max_pool(3),
    F.max_pool2d: _max_pool(2),
    F.max_pool3d: _max_pool(3),
    F.avg_pool2d: _avg_pool(2),
    F.avg_pool3d: _avg_pool(3),
}
