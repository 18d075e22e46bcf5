"""Copies of tensors that a model cannot tell from the original: the strides are the same, too.

The strides decide which kernel an operation takes, also the stride of an axis of extent 1, and
another kernel rounds differently. ``clone`` keeps strides only of tensors without gaps, and
``view_as`` rewrites those of axes of extent 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def strided_copy(tensor: Tensor) -> Tensor:
    """Return a differentiable copy with the same strides.

    An expanded tensor is copied as it is, without the sharing: its strides cannot be kept.
    """
    copy = tensor.clone()
    is_expanded = any(
        stride == 0 and extent > 1
        for stride, extent in zip(tensor.stride(), tensor.shape, strict=True)
    )
    if copy.stride() == tensor.stride() or is_expanded:
        return copy
    return tensor.new_empty_strided(tensor.shape, tensor.stride()).copy_(tensor)


def version_of(tensor: Tensor) -> int:
    """Return the counter of writes to a tensor; 0 for an inference tensor, which has none."""
    return 0 if tensor.is_inference() else tensor._version


def graph_node(tensor: Tensor) -> Tensor:
    """Return a view with the same strides that is a node of the graph of its own."""
    view: Tensor = torch.ops.aten.alias(tensor)
    return view
