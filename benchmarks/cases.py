"""The networks that are measured: name -> network, input and layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        build: Makes the network, with random weights.
        shape: The input's shape.
        layer: The layer that is explained.
        segmentation: Whether the output has spatial axes.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    layer: str
    segmentation: bool = False

    def network(self) -> nn.Module:
        """The network; a segmentation answers with its class scores, as peers need it."""
        torch.manual_seed(0)
        net = self.build().eval()
        return MeanLogits(net).eval() if self.segmentation else net

    @property
    def name_of_layer(self) -> str:
        """The layer's name inside `network()`."""
        return f"net.{self.layer}" if self.segmentation else self.layer

    def inputs(self) -> Tensor:
        """The input."""
        return torch.rand(self.shape, generator=torch.Generator().manual_seed(0))


class MeanLogits(nn.Module):
    """A segmentation network as a classifier: the mean logit of each class.

    Captum, torchcam and MONAI explain classifiers only; for a fair comparison all are given this.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, classes]``."""
        return self.net(x).flatten(2).mean(2)


for operator in ("nms", "qnms"):  # so that torchvision imports beside a torch of another index
    with contextlib.suppress(RuntimeError):
        torch.library.define(
            f"torchvision::{operator}",
            "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        )


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        return getattr(torchvision.models, name)(weights=None)

    return build


def _densenet() -> nn.Module:
    from monai.networks.nets import DenseNet121

    return DenseNet121(3, 1, 2)


def _nnunet() -> nn.Module:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(
        input_channels=1, n_stages=5, features_per_stage=[32, 64, 128, 256, 320],
        conv_op=nn.Conv3d, kernel_sizes=3, strides=[1, 2, 2, 2, 2], num_classes=3, conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, n_conv_per_stage=2,
        n_conv_per_stage_decoder=2,
    )  # fmt: skip


def _unet(size: int, layer: str = "encoder.stages.4") -> Case:
    return Case(_nnunet, (1, 1, size, size, size), layer, segmentation=True)


CASES: dict[str, Case] = {
    "ResNet50 B=1, layer4": Case(_torchvision("resnet50"), (1, 3, 224, 224), "layer4"),
    "ResNet50 B=8, layer4": Case(_torchvision("resnet50"), (8, 3, 224, 224), "layer4"),
    "DenseNet121-3D 96³, features": Case(_densenet, (1, 1, 96, 96, 96), "features"),
    "nnU-Net 64³, last decoder stage": _unet(64, "decoder.stages.3"),
    "nnU-Net 64³, bottleneck": _unet(64),
    "nnU-Net 96³, last decoder stage": _unet(96, "decoder.stages.3"),
    "nnU-Net 96³, bottleneck": _unet(96),
    "nnU-Net 128³, bottleneck": _unet(128),
    "DenseNet121-3D 128³, features": Case(_densenet, (1, 1, 128, 128, 128), "features"),
}
