"""What the lean operations share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Rule = Callable[..., Any]

HALF = (torch.float16, torch.bfloat16)
"""Where some kernels choose another order of summation for a placeholder."""


def apply(function: Any, *args: Any) -> Any:  # `Function.apply` has no annotations
    return function.apply(*args)


def frozen(*tensors: Tensor | None) -> bool:
    """Whether no gradient is wanted for any of these parameters."""
    return not any(tensor is not None and tensor.requires_grad for tensor in tensors)


def placeholder(grad: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of a shape whose values are never read, and that takes no memory.

    Kernels of the CPU copy what is not contiguous, and are slower on it; there, memory that is not
    touched is not used either. Elsewhere one element stands for all.
    """
    if grad.device.type == "cpu":
        return grad.new_empty(shape, dtype=dtype)
    return grad.new_empty(1, dtype=dtype).expand(shape)


def each(value: int | Sequence[int], dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else [*value] * (dims if len(value) == 1 else 1)
