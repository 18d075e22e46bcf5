"""A network run once more in the midst of somebody's training, and nothing of it left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and random numbers that count for nothing.

    Evaluation mode keeps the running statistics of normalisation layers as they are. After it each
    module has the mode it had, also those that were frozen in a network in training.
    """
    modes = [(module, module.training) for module in network.modules()]
    devices = {parameter.device for parameter in network.parameters()}
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    with torch.random.fork_rng(cuda):
        try:
            network.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
