"""Deep copies of tensors in the graph."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def deepcopy(tensor: Tensor, memo: dict[int, Any]) -> Any:
    """Return a clone of a tensor with autograd history, whose deep copy PyTorch refuses.

    Args:
        tensor: The tensor.
        memo: The copies by the ``id`` of their originals, see `copy.deepcopy`.
    """
    if tensor.is_leaf:
        return NotImplemented
    if id(tensor) not in memo:
        memo[id(tensor)] = tensor.clone()
    return memo[id(tensor)]
