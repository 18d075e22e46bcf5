"""Networks with permuted weights: the same architecture and values, but nothing that was learnt."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from medcam.engine.model.isolation import modules_of
from medcam.engine.model.stored import stored_graphs
from medcam.errors import InputError, reason_of


def permuted_networks(model: nn.Module, count: int, *, seed: int = 0) -> Iterator[nn.Module]:
    """Yield copies of a network whose weights are permuted within each tensor.

    All layers are permuted, so their order is irrelevant (Binder et al., CVPR 2023,
    arXiv 2211.12486). The statistics of normalisation layers, which are buffers, stay. The model
    itself is not touched: there is one copy, whose weights are permuted anew each time.

    Raises:
        InputError: The model cannot be copied.
    """
    twin = _copy_of(model)
    pairs = [
        (own, other)
        for own, other in zip(model.parameters(), twin.parameters(), strict=True)
        if own.numel() > 1
    ]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        with torch.no_grad():
            for own, other in pairs:
                order = torch.randperm(own.numel(), generator=generator).to(own.device)
                other.copy_(own.detach().reshape(-1)[order].view(own.shape))
        yield twin


def _copy_of(model: nn.Module) -> nn.Module:
    """Return a deep copy; tensors with a graph that the model holds are copied without it."""
    memo: dict[int, Any] = {
        id(tensor): tensor.detach().clone() for tensor in stored_graphs(modules_of(model))
    }
    try:
        twin: nn.Module = copy.deepcopy(model, memo)
    except Exception as error:  # objects of the user's, such as open files, raise anything
        raise InputError(
            f"The model cannot be copied, which the networks with other weights need: "
            f"{reason_of(error)} Leave that criterion out with networks=0."
        ) from error
    return twin
