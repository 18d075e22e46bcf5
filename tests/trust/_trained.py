"""Networks that the thresholds were not read off, trained by the tests on discs among squares.

Discs and squares have the same grey values and sizes, so that brightness alone explains nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def shapes(
    count: int,
    *,
    rank: int = 2,
    side: int = 64,
    seed: int = 0,
    each: int = 2,
    discs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return images ``[count, 1, *space]`` of discs and squares on noise, and where the discs are.

    Args:
        count: The number of images.
        rank: The number of spatial axes.
        side: The extent of each axis.
        seed: The seed.
        each: The number of discs and of squares in each image.
        discs: The number of discs in each image, if it differs.
    """
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(count, *[side] * rank, generator=generator)
    masks = torch.zeros(count, *[side] * rank, dtype=torch.bool)
    grid = torch.stack(torch.meshgrid(*[torch.arange(side)] * rank, indexing="ij"))
    for n in range(count):
        free = torch.ones([side] * rank, dtype=torch.bool)
        of_image = each if discs is None else int(discs[n])
        for kind in ["disc"] * of_image + ["square"] * each:
            for _ in range(50):
                radius = torch.randint(side // 12, side // 8 + 1, (1,), generator=generator)
                centre = torch.randint(side // 7, side - side // 7, (rank,), generator=generator)
                offset = (grid - centre.reshape(-1, *[1] * rank)).float()
                box = offset.abs().amax(0) <= radius + 1
                if free[box].all():
                    break
            free &= ~box
            if kind == "disc":
                inside = offset.square().sum(0).sqrt() <= radius
                masks[n] |= inside
            else:
                inside = offset.abs().amax(0) <= radius * 0.85
            images[n][inside] += 2.0
    return images[:, None], masks


def trained(
    network: nn.Module, images: Tensor, labels: Tensor, *, steps: int, rate: float = 2e-3,
    batch: int = 8, select: Callable[[object], Tensor] = lambda output: output,
) -> nn.Module:  # fmt: skip
    """Return a network trained by cross entropy, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2 * rate, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(select(network(images[chosen])), labels[chosen])
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def dice(network: nn.Module, images: Tensor, masks: Tensor) -> float:
    with torch.no_grad():
        predicted = network(images).argmax(1) == 1
    return float(2 * (predicted & masks).sum() / (predicted.sum() + masks.sum()))


def nnunet_network(rank: int = 2) -> nn.Module:
    """The network that nnU-Net trains, with four stages."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if rank == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    return PlainConvUNet(
        1, 4, [8, 16, 32, 48], conv, 3, [1, 2, 2, 2], 2, 2, 2, conv_bias=True, norm_op=norm,
        norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip


def monai_network(rank: int = 2) -> nn.Module:
    from monai.networks.nets import UNet

    return UNet(
        spatial_dims=rank, in_channels=1, out_channels=2, channels=(8, 16, 32, 48),
        strides=(2, 2, 2), num_res_units=2,
    )  # fmt: skip


class ResidualClassifier(nn.Module):
    """A small residual network of the form of torchvision's, for the class "holds a disc"."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _Residual(width, width, 1)
        self.layer2 = _Residual(width, 2 * width, 2)
        self.layer3 = _Residual(2 * width, 4 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class _Residual(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential(
            nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        features: Tensor = self.relu(inner + self.downsample(x))
        return features
