"""Small networks with known structure."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(dims: int, *args: object, **kwargs: object) -> nn.Module:
    return {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims](*args, **kwargs)


def max_pool(dims: int) -> nn.Module:
    return {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims](2)


class Classifier(nn.Module):
    """Two convolutions, global average pooling, one linear layer."""

    def __init__(
        self, dims: int = 2, classes: int = 3, channels: int = 1, *, inplace: bool = False
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(dims, channels, 6, 3, padding=1),
            nn.ReLU(inplace),
            max_pool(dims),
            conv(dims, 6, 8, 3, padding=1),
            nn.ReLU(inplace),
        )
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(2).mean(2))


class UNet(nn.Module):
    """One level down and up again, with a skip connection."""

    def __init__(
        self, dims: int = 2, classes: int = 3, channels: int = 1, *, inplace: bool = False
    ) -> None:
        super().__init__()
        self.down = nn.Sequential(
            conv(dims, channels, 6, 3, padding=1), nn.LeakyReLU(0.01, inplace)
        )
        self.pool = max_pool(dims)
        self.bottleneck = nn.Sequential(
            conv(dims, 6, 12, 3, padding=1), nn.LeakyReLU(0.01, inplace)
        )
        self.up = nn.Upsample(scale_factor=2)
        self.decoder = nn.Sequential(conv(dims, 18, 6, 3, padding=1), nn.LeakyReLU(0.01, inplace))
        self.head = conv(dims, 6, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        deep = self.up(self.bottleneck(self.pool(skip)))
        return self.head(self.decoder(torch.cat([skip, deep], 1)))


def image(dims: int = 2, batch: int = 2, size: int = 12, channels: int = 1) -> Tensor:
    return torch.rand(batch, channels, *[size] * dims)


@torch.no_grad()
def balanced(net: UNet, dims: int, channels: int = 1) -> UNet:
    """Return the network with a new head, for which every class is predicted somewhere."""
    torch.nn.init.normal_(net.head.weight)
    logits = net(image(dims, 4, channels=channels)).transpose(0, 1).flatten(1)
    net.head.bias -= logits.mean(1)
    return net.eval()
