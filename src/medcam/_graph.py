"""Looking at an autograd graph without running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge


def nodes(root: Any) -> set[Any]:
    """Every node of the graph below ``root``, itself included."""
    seen, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    return seen


def leaves(result: Tensor) -> list[Tensor]:
    """The tensors at which the graph below ``result`` ends: those that gradients are kept for."""
    found = nodes(result.grad_fn) if result.grad_fn is not None else set()
    return [node.variable for node in found if hasattr(node, "variable")]


def depends_on(result: Tensor, tensors: Sequence[Tensor]) -> list[bool]:
    """Whether a gradient can flow from ``result`` back to each of the tensors."""
    if result.grad_fn is None:
        return [False] * len(tensors)
    known = nodes(result.grad_fn)
    return [tensor.requires_grad and get_gradient_edge(tensor).node in known for tensor in tensors]
