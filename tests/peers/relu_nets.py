"""Networks that every peer can handle: ReLU modules, each used once, with "relu" in their name."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from support.nets import conv, max_pool


def stage(dims: int, before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv=conv(dims, before, after, 3, padding=1), relu=nn.ReLU()),
    )


class ReluClassifier(nn.Module):
    """Layers ``first`` (full size), ``last`` (half size), then pooling and a linear layer."""

    def __init__(self, dims: int, classes: int = 3, channels: int = 2) -> None:
        super().__init__()
        self.first = stage(dims, channels, 6)
        self.pool = max_pool(dims)
        self.last = stage(dims, 6, 8)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.pool(self.first(x))).flatten(2).mean(2))


class ReluUNet(nn.Module):
    """Layers ``down`` (full size), ``bottleneck`` (half), ``decoder`` (full), ``head``."""

    def __init__(self, dims: int, classes: int = 3, channels: int = 2) -> None:
        super().__init__()
        self.down = stage(dims, channels, 6)
        self.pool = max_pool(dims)
        self.bottleneck = stage(dims, 6, 12)
        self.up = nn.Upsample(scale_factor=2)
        self.decoder = stage(dims, 18, 6)
        self.head = conv(dims, 6, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        deep = self.up(self.bottleneck(self.pool(skip)))
        return self.head(self.decoder(torch.cat([skip, deep], 1)))

    def balance(self, x: Tensor) -> None:
        """Shift the head's bias so that every class is predicted somewhere in each sample."""
        with torch.no_grad():
            self.head.bias -= self(x).flatten(2).mean((0, 2))


class MaskedMeans(nn.Module):
    """A segmentation as a classifier for the peers: mean logits over fixed voxels.

    Args:
        net: The segmentation network.
        voxels: The mask of the logits of each target, ``[batch, targets, classes, *space]``.
    """

    def __init__(self, net: nn.Module, voxels: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("voxels", voxels.to(torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        total = torch.einsum("bc...,btc...->bt", logits, self.voxels)
        return total / self.voxels.flatten(2).sum(2)


def predicted_as_each_class(logits: Tensor) -> Tensor:
    """Return the masks of `MaskedMeans`: target k is class k's logit over voxels predicted as k."""
    count = logits.shape[1]
    picked = nn.functional.one_hot(logits.argmax(1), count).movedim(-1, 1)
    voxels = torch.zeros(len(logits), count, *logits.shape[1:])
    for k in range(count):
        voxels[:, k, k] = picked[:, k]
    assert (voxels.flatten(3).sum(3).diagonal(dim1=1, dim2=2) > 0).all(), "a class is not predicted"
    return voxels


def predicted_foreground(logits: Tensor) -> Tensor:
    """Return the mask of the predicted classes' logits over the foreground, as a single target."""
    picked = nn.functional.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1)
    picked[:, 0] = 0
    assert picked.flatten(1).any(1).all(), "nothing is foreground"
    return picked[:, None]
