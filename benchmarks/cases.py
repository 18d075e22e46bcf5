"""The measured networks: name -> network, input shape and layer.

Importing this module also makes ``tests/support`` importable, which the benchmarks share with the
tests, and torchvision, whose compiled extension does not load with every build of torch.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from support.torchvision_shim import make_importable

with contextlib.suppress(ImportError):  # the networks of other packages do not need torchvision
    make_importable()


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes:
        build: Builds the network, with random weights.
        shape: The shape of the input.
        layer: The explained layer.
        segmentation: Whether the output has spatial axes.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    layer: str
    segmentation: bool = False

    def network(self) -> nn.Module:
        """Build the network; a segmentation network is wrapped in `MeanLogits`."""
        torch.manual_seed(0)
        net = self.build().eval()
        return MeanLogits(net).eval() if self.segmentation else net

    @property
    def layer_in_network(self) -> str:
        """The name of the layer inside `network()`."""
        return f"net.{self.layer}" if self.segmentation else self.layer

    def inputs(self) -> Tensor:
        """Draw the input."""
        return torch.rand(self.shape, generator=torch.Generator().manual_seed(0))


class MeanLogits(nn.Module):
    """A segmentation network as a classifier: the mean logit of each class.

    Captum, torchcam and MONAI explain classifiers only. For a fair comparison, all libraries get
    this wrapper.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits, ``[batch, classes]``."""
        return self.net(x).flatten(2).mean(2)


def torchvision_builder(name: str) -> Callable[[], nn.Module]:
    """Return a function that builds a network of torchvision, with random weights."""

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
    "ResNet50 B=1, layer4": Case(torchvision_builder("resnet50"), (1, 3, 224, 224), "layer4"),
    "ResNet50 B=8, layer4": Case(torchvision_builder("resnet50"), (8, 3, 224, 224), "layer4"),
    "DenseNet121-3D 96³, features": Case(_densenet, (1, 1, 96, 96, 96), "features"),
    "nnU-Net 64³, last decoder stage": _unet(64, "decoder.stages.3"),
    "nnU-Net 64³, bottleneck": _unet(64),
    "nnU-Net 96³, last decoder stage": _unet(96, "decoder.stages.3"),
    "nnU-Net 96³, bottleneck": _unet(96),
    "nnU-Net 128³, bottleneck": _unet(128),
    "DenseNet121-3D 128³, features": Case(_densenet, (1, 1, 128, 128, 128), "features"),
}
