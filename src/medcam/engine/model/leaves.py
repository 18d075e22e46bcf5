"""Leaves of the graph that medcam makes; without it, no gradient would flow to them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

_MARK = "_medcam_leaf"


def new_leaf(tensor: Tensor) -> Tensor:
    """Return the tensor as a leaf that requires a gradient, marked as medcam's."""
    leaf = tensor.detach().requires_grad_()
    setattr(leaf, _MARK, True)
    return leaf


def is_trained(value: Any) -> bool:
    """Return whether a value is a tensor that requires a gradient without medcam, too."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return False
    if value.grad_fn is None:
        return not hasattr(value, _MARK)
    visited, stack = {value.grad_fn}, [value.grad_fn]
    while stack:  # a weight of the last layer usually ends the search
        node = stack.pop()
        if hasattr(node, "variable") and not hasattr(node.variable, _MARK):
            return True
        below = {child for child, _ in node.next_functions if child is not None} - visited
        visited |= below
        stack.extend(below)
    return False
