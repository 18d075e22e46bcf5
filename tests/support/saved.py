"""Count of the bytes that PyTorch saves for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def saved_bytes(model: nn.Module, call: Callable[[], Any]) -> int:
    """Return the bytes of all storages saved in a call, without parameters and buffers."""
    model_storages = {
        t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]
    }
    sizes: dict[int, int] = {}
    kept: list[Tensor] = []  # keep storages alive so their addresses are not reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in model_storages:
            sizes[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(sizes.values())
