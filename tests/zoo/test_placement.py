"""Where features lie, against the gradients of common networks.

The gradient of a cell with respect to the image is centred where the cell lies. In a freshly
initialised network it is random; its expected energy is the gradient of a linear network whose
weights are the variances of the initialisation. So the comparison needs no seeds.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torchvision.models as tv
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.networks import nets as monai_nets
from torch import Tensor, nn

import medcam
from medcam import demo
from medcam.maps import place

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
ACTIVATIONS = (nn.GELU, nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.PReLU)


def energy_of_gradients(net: nn.Module) -> nn.Module:
    """Return the network whose gradient is the expected energy of that of random weights."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, (*NORMS, *ACTIVATIONS)):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):  # which voxel is the largest is random
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding)
                setattr(module, name, pool)
    for name, module in net.named_modules():
        if name.endswith("attn.proj"):
            module.weight.data.zero_()  # windows are not centred on their tokens
        elif isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            fan_in = nn.init._calculate_fan_in_and_fan_out(module.weight)[0]
            module.weight.data.fill_(1 / (6 * fan_in))
        if getattr(module, "bias", None) is not None and isinstance(module.bias, Tensor):
            module.bias.data.zero_()
    return net.double().eval()


def nnunet(rank: int) -> nn.Module:
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[rank]
    stages = {2: 5, 3: 3}[rank]
    return PlainConvUNet(
        1, stages, [4, 8, 16, 16, 16, 16][:stages], convolution, 3, [1, *[2] * (stages - 1)], 2, 3,
        2, conv_bias=True, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip


def stages(count: int, *, decoder: bool = True) -> list[str]:
    names = [f"encoder.stages.{i}" for i in range(count)]
    return names + [f"decoder.stages.{i}" for i in range(count - 1)] * decoder


CASES = {
    "resnet18": (tv.resnet18, (3, 320, 320), ["layer1", "layer2", "layer3", "layer4"]),
    "densenet121": (
        tv.densenet121, (3, 256, 256),
        ["features.denseblock1", "features.denseblock2", "features.denseblock3", "features"],
    ),
    "convnext": (tv.convnext_tiny, (3, 128, 128), [f"features.{i}" for i in (1, 3, 5, 7)]),
    "swin": (tv.swin_t, (3, 224, 224), [f"features.{i}" for i in (0, 1, 3, 5, 7)]),
    "nnU-Net 2D": (lambda: nnunet(2), (1, 256, 256), stages(5)),
    "nnU-Net 3D": (lambda: nnunet(3), (1, 40, 40, 40), stages(3)),
    "MONAI UNet": (
        lambda: monai_nets.UNet(2, 1, 2, (4, 8, 16, 32), (2, 2, 2), num_res_units=2),
        (1, 128, 128), ["model.0", "model.1.submodule.0", "model.1.submodule", "model.1", "model"],
    ),
    "SegResNet": (
        lambda: monai_nets.SegResNet(2, 8, 1, 2), (1, 128, 128),
        ["down_layers.1", "down_layers.2", "down_layers.3", *(f"up_layers.{i}" for i in range(3))],
    ),
    "DynUNet": (
        lambda: monai_nets.DynUNet(2, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4, 8, 16, 16]),
        (1, 128, 128),
        ["downsamples.0", "downsamples.1", "bottleneck", *(f"upsamples.{i}" for i in range(3))],
    ),
}  # fmt: skip


def centroids(net: nn.Module, image: Tensor, layer: str, item) -> list[float]:
    """Return along each axis the mean distance of the gradient from the place of central cells."""
    runs: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: runs.append(o))
    net(image)
    handle.remove()
    features = runs[-1]
    if features.shape[-1] != item.values.shape[-1]:
        features = features.movedim(-1, 1)  # channels last
    space = features.shape[2:]
    distances = []
    for corner in itertools.product((0, 1), repeat=len(space)):  # transposed kernels alternate
        cell = [n // 2 - 1 + side for n, side in zip(space, corner, strict=True)]
        score = features[(0, slice(None), *cell)].sum()
        (gradient,) = torch.autograd.grad(score, image, retain_graph=True)
        weights = gradient[0].abs().sum(0)
        for axis, index in enumerate(cell):
            line = weights.sum([a for a in range(weights.ndim) if a != axis])
            centre = (line * torch.arange(len(line))).sum() / line.sum()
            place = item.grid.start[axis] + item.grid.step[axis] * index
            distances.append((axis, float(centre) - place))
    return [
        sum(d for a, d in distances if a == axis) / 2 ** len(space) for axis in range(len(space))
    ]


BIG = ("resnet18", "densenet121", "convnext", "swin")
"""Networks of full size in double precision."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in BIG)) for name in CASES]
)
def test_features_lie_where_their_gradients_are_centred(name):
    build, shape, layers = CASES[name]
    torch.manual_seed(0)
    net, image = energy_of_gradients(build()), torch.rand(1, *shape).double().requires_grad_()
    maps = medcam.explain(
        net, image.detach(), layer=layers, method="hirescam", shape=None,
        target=lambda output: sum_of(output),
    ).maps  # fmt: skip
    worst_of_stretching = 0.0
    for layer in layers:
        item = maps[layer]
        assert item.grid.known, item.grid.reason
        distances = centroids(net, image, layer, item)
        assert max(map(abs, distances)) <= 0.5, (layer, item.grid, distances)
        stretched = [
            (whole / cells - 1) / 2
            for whole, cells in zip(shape[1:], item.values.shape[2:], strict=True)
        ]
        offsets = [abs(s - p) for s, p in zip(stretched, item.grid.start, strict=True)]
        worst_of_stretching = max(worst_of_stretching, *offsets)
    if name not in ("convnext", "swin"):  # non-overlapping kernels tile the image
        assert worst_of_stretching >= 1


@pytest.mark.parametrize("method", ["gcam", "hirescam"])
@pytest.mark.parametrize("layer", ["decoder1", "decoder2"])
def test_maps_of_a_trained_decoder_fit_the_ground_truth_where_they_lie(layer, method):
    """What its features stand for decides, not the middle of all that they have seen."""
    nuclei = demo.load_nuclei()
    net, image, truth = demo.load_nuclei_segmenter(), nuclei.images, nuclei.masks.flatten().float()
    item = medcam.explain(net, image, layer=layer, method=method, shape=None).map
    fits = []
    for offset in (-1.0, -0.75, 0.0, 0.75, 1.0):
        grid = medcam.LayerGrid(tuple(start + offset for start in item.grid.start), item.grid.step)
        values = place(item.attention(), grid, image.shape[2:], image.shape[2:]).flatten()
        fits.append(float(torch.corrcoef(torch.stack([values, truth]))[0, 1]))
    assert max(fits) == fits[2] > 0.8


def sum_of(output) -> Tensor:
    """Return a score that every layer has a part in."""
    tensor = output if isinstance(output, Tensor) else output[0]
    return tensor.flatten(1).sum(1)
