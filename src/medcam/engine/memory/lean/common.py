"""Helpers that the lean operations share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Rule = Callable[..., Any]
"""An operation with PyTorch's arguments; NotImplemented where PyTorch's own has to run."""

HALF = (torch.float16, torch.bfloat16)
"""Types for which some kernels sum a placeholder in another order, so that results differ."""


def apply(function: Any, *args: Any) -> Any:
    """Call an autograd function, whose ``apply`` has no annotations."""
    return function.apply(*args)


def frozen(*tensors: Tensor | None) -> bool:
    """Return whether none of these parameters requires a gradient."""
    return not any(tensor is not None and tensor.requires_grad for tensor in tensors)


def placeholder(grad: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Return a stand-in of the given shape; its values are never read.

    On the CPU it is an empty tensor: kernels there copy tensors that are not contiguous, and the
    system assigns no memory that is never touched. Elsewhere it is one element, expanded.

    Args:
        grad: A tensor of the same device.
        shape: The shape.
        dtype: The type; None: that of ``grad``.
    """
    if grad.device.type == "cpu":
        return grad.new_empty(shape, dtype=dtype)
    return grad.new_empty(1, dtype=dtype).expand(shape)


def per_axis(value: int | Sequence[int], dims: int) -> list[int]:
    """Return one number for each spatial axis; a single number stands for all axes."""
    return [value] * dims if isinstance(value, int) else [*value] * (dims if len(value) == 1 else 1)
