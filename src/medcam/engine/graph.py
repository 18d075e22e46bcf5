"""Inspect an autograd graph without running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def nodes(root: Any, *, without: Any = None) -> set[Any]:
    """Return every node of the graph below ``root``, itself included.

    Args:
        root: The node where the walk starts.
        without: A node that is not passed, nor returned.
    """
    visited, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None and node is not without and node not in visited:
                visited.add(node)
                stack.append(node)
    return visited


def leaves(result: Tensor) -> list[Tensor]:
    """Return the leaves of the graph below ``result`` that require gradients."""
    below = nodes(result.grad_fn) if result.grad_fn is not None else set()
    return [node.variable for node in below if hasattr(node, "variable")]


def depends_on(
    result: Tensor, tensors: Sequence[Tensor], *, around: Tensor | None = None
) -> list[bool]:
    """Return for each tensor whether a gradient can flow to it from ``result``.

    Args:
        result: Where the gradient starts.
        tensors: Where it may end.
        around: A tensor that the path must not pass.
    """
    if result.grad_fn is None:
        return [False] * len(tensors)
    below = nodes(result.grad_fn, without=None if around is None else around.grad_fn)
    # a leaf is found by identity: a MetaTensor's gradient edge leads to an alias of it
    leaves_below = {id(node.variable) for node in below if hasattr(node, "variable")}
    return [
        id(tensor) in leaves_below if tensor.grad_fn is None else tensor.grad_fn in below
        for tensor in tensors
    ]
