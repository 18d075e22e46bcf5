"""Architectures of the trained demo networks: a 3D and two 2D segmenters, a 2D classifier.

Every activation is an ``nn.ReLU`` module that does not work in-place. So each layer can be hooked,
and methods that change the backward pass of ReLU modules apply.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BrainUNet", "LesionNet", "LungUNet", "NucleiUNet"]


class BrainUNet(nn.Module):
    """A three-level 3D U-Net that segments the brain in a T1 head scan.

    The network of deepbrain 0.1 (171,465 parameters), without the dropout of its training. There is
    no convolution at the lowest resolution: the bottleneck is the output of the third pooling.

    Layers, for a cube of side S: ``encoder1`` (8 channels, S), ``encoder2`` (16, S/2), ``encoder3``
    (32, S/4), ``bottleneck`` (32, S/8), ``decoder3`` (32, S/4), ``decoder2`` (16, S/2),
    ``decoder1`` (8, S), ``head`` (1, S). The convolutions are ``encoderN.conv1``,
    ``encoderN.conv2``, ``decoderN.up`` and ``decoderN.conv``.

    Example:
        >>> BrainUNet()(torch.zeros(1, 1, 16, 16, 16)).shape
        torch.Size([1, 1, 16, 16, 16])
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder1 = _Encoder(1, 8)
        self.pool1 = nn.MaxPool3d(2)
        self.encoder2 = _Encoder(8, 16)
        self.pool2 = nn.MaxPool3d(2)
        self.encoder3 = _Encoder(16, 32)
        self.bottleneck = nn.MaxPool3d(2)
        self.decoder3 = _Decoder(32, 32)
        self.decoder2 = _Decoder(32, 16)
        self.decoder1 = _Decoder(16, 8)
        self.head = nn.Conv3d(8, 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the brain logit of every voxel.

        Args:
            x: Head scans, shape ``[batch, 1, depth, height, width]``, non-negative with maximum 1.
                The network was trained on 128³ voxels; each side must be at least 8.

        Returns:
            Logits of the same shape; a positive logit means brain.
        """
        skip1 = self.encoder1(x)
        skip2 = self.encoder2(self.pool1(skip1))
        skip3 = self.encoder3(self.pool2(skip2))
        x = self.decoder3(self.bottleneck(skip3), skip3)
        x = self.decoder2(x, skip2)
        x = self.decoder1(x, skip1)
        logits: Tensor = self.head(x)
        return logits


class _Encoder(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv3d(out_channels, out_channels, kernel_size=3, padding=1)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return features


class _Decoder(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, out_channels, kernel_size=3, stride=2, bias=False)
        self.conv = nn.Conv3d(2 * out_channels, out_channels, kernel_size=3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # The weights come from TensorFlow. There, padding "SAME" pads a stride-2 convolution of an
        # even length at the far end only. So of the 2n+1 outputs of the full transposed convolution
        # of n inputs, outputs 0 to 2n-1 are kept.
        depth, height, width = skip.shape[2:]
        x = self.up(x)[:, :, :depth, :height, :width]
        features: Tensor = self.relu(self.conv(torch.cat([x, skip], dim=1)))
        return features


class LesionNet(nn.Module):
    """A small CNN that classifies whether a head slice shows a bright lesion.

    Six convolutions with ReLUs, two poolings, global average pooling and one linear layer, 60,330
    parameters. After ``relu6`` only the average and the linear layer follow, so Grad-CAM of that
    layer equals CAM up to a factor.

    Layers, for a slice of side S: ``conv1`` (8 channels, S), ``conv2`` (16, S), ``conv3``,
    ``conv4`` (32, S/2), ``conv5`` (48, S/4), ``conv6`` (72, S/4), each followed by its ``reluN``.

    Example:
        >>> LesionNet()(torch.zeros(3, 1, 64, 64)).shape
        torch.Size([3, 2])
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, kernel_size=3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 16, kernel_size=3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.relu3 = nn.ReLU()
        self.conv4 = nn.Conv2d(32, 32, kernel_size=3, padding=1)
        self.relu4 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.conv5 = nn.Conv2d(32, 48, kernel_size=3, padding=1)
        self.relu5 = nn.ReLU()
        self.conv6 = nn.Conv2d(48, 72, kernel_size=3, padding=1)
        self.relu6 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(72, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of the classes absent (0) and present (1).

        Args:
            x: Slices, shape ``[batch, 1, height, width]``, normalised as by `load_lesion_slices`.
                The network was trained on 64 × 64 pixels.

        Returns:
            Logits, shape ``[batch, 2]``.
        """
        x = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        x = self.relu4(self.conv4(self.relu3(self.conv3(self.pool1(x)))))
        x = self.relu6(self.conv6(self.relu5(self.conv5(self.pool2(x)))))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


class _UNet2d(nn.Module):
    """A three-level 2D U-Net with one output channel; its widths are 8, 16, 32 and 48."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder1 = _Stage(1, 8)
        self.pool1 = nn.MaxPool2d(2)
        self.encoder2 = _Stage(8, 16)
        self.pool2 = nn.MaxPool2d(2)
        self.encoder3 = _Stage(16, 32)
        self.pool3 = nn.MaxPool2d(2)
        self.bottleneck = _Stage(32, 48)
        self.up3 = nn.Upsample(scale_factor=2, mode="bilinear")
        self.decoder3 = _Stage(48 + 32, 32)
        self.up2 = nn.Upsample(scale_factor=2, mode="bilinear")
        self.decoder2 = _Stage(32 + 16, 16)
        self.up1 = nn.Upsample(scale_factor=2, mode="bilinear")
        self.decoder1 = _Stage(16 + 8, 8)
        self.head = nn.Conv2d(8, 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logit of every pixel.

        Args:
            x: Images, shape ``[batch, 1, height, width]``, normalised as by the loader that the
                class names; height and width are multiples of 8.

        Returns:
            Logits of the same shape; a positive logit means that the pixel is in the foreground.
        """
        skip1 = self.encoder1(x)
        skip2 = self.encoder2(self.pool1(skip1))
        skip3 = self.encoder3(self.pool2(skip2))
        x = self.bottleneck(self.pool3(skip3))
        x = self.decoder3(torch.cat([self.up3(x), skip3], dim=1))
        x = self.decoder2(torch.cat([self.up2(x), skip2], dim=1))
        x = self.decoder1(torch.cat([self.up1(x), skip1], dim=1))
        logits: Tensor = self.head(x)
        return logits


class NucleiUNet(_UNet2d):
    """A three-level 2D U-Net that segments cell nuclei in fluorescence micrographs.

    The network has 96,913 parameters. Each convolution is followed by batch normalisation. The
    decoder upsamples by bilinear interpolation, which leaves no checkerboard pattern in a map. The
    inputs are normalised as by `load_nuclei`.

    Layers, for an image of side S: ``encoder1`` (8 channels, S), ``encoder2`` (16, S/2),
    ``encoder3`` (32, S/4), ``bottleneck`` (48, S/8), ``decoder3`` (32, S/4), ``decoder2``
    (16, S/2), ``decoder1`` (8, S), ``head`` (1, S). All except the head contain ``conv1``,
    ``norm1``, ``relu1``, ``conv2``, ``norm2`` and ``relu2``.

    Example:
        >>> NucleiUNet()(torch.zeros(2, 1, 16, 24)).shape
        torch.Size([2, 1, 16, 24])
    """


class LungUNet(_UNet2d):
    """A three-level 2D U-Net that segments the lungs in axial CT slices.

    The architecture and the names of the layers are those of `NucleiUNet`. The inputs are
    normalised as by `load_lung_slices`.

    Example:
        >>> LungUNet()(torch.zeros(2, 1, 16, 24)).shape
        torch.Size([2, 1, 16, 24])
    """


class _Stage(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # no bias: batch normalisation adds its own
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.norm1(self.conv1(x)))
        features: Tensor = self.relu2(self.norm2(self.conv2(x)))
        return features
