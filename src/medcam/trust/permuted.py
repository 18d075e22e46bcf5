"""Networks with permuted weights: the same architecture and values, but nothing that was learnt."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from medcam.trust.copies import copy_of


def permuted_networks(model: nn.Module, count: int, *, seed: int = 0) -> Iterator[nn.Module]:
    """Yield copies of a network whose weights are permuted within each tensor.

    All layers are permuted, so their order is irrelevant (Binder et al., CVPR 2023,
    arXiv 2211.12486). The statistics of normalisation layers, which are buffers, stay. The model
    itself is not touched: there is one copy, whose weights are permuted anew each time.

    Raises:
        InputError: The model cannot be copied.
    """
    twin = copy_of(model, "which T2 (networks with permuted weights) needs, networks=0 omits it")
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
