"""Inspect an autograd graph without running it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor


def nodes(root: Any, *, without: Collection[Any] = ()) -> set[Any]:
    """Return every node of the graph below ``root``, itself included.

    Args:
        root: The node where the walk starts.
        without: Nodes that are not passed, nor returned.
    """
    visited, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None and node not in without and node not in visited:
                visited.add(node)
                stack.append(node)
    return visited


def leaves(result: Tensor) -> list[Tensor]:
    """Return the leaves of the graph below ``result`` that require gradients."""
    below = nodes(result.grad_fn) if result.grad_fn is not None else set()
    return [node.variable for node in below if hasattr(node, "variable")]


def depends_on(
    result: Tensor, tensors: Sequence[Tensor], *, around: Sequence[Tensor] = ()
) -> list[bool]:
    """Return for each tensor whether a gradient can flow to it from ``result``.

    Args:
        result: Where the gradient starts.
        tensors: Where it may end.
        around: Tensors that the path must not pass.
    """
    if result.grad_fn is None:
        return [False] * len(tensors)
    passed = {tensor.grad_fn for tensor in around if tensor.grad_fn is not None}
    below = nodes(result.grad_fn, without=passed)
    # a leaf is found by identity: a MetaTensor's gradient edge leads to an alias of it
    leaves_below = {id(node.variable) for node in below if hasattr(node, "variable")}
    return [
        id(tensor) in leaves_below if tensor.grad_fn is None else tensor.grad_fn in below
        for tensor in tensors
    ]
