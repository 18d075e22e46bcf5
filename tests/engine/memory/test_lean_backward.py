"""Lean operations save less; predictions and gradients are the same bit for bit."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn
from torchvision.models import densenet121, efficientnet_b0, resnet18, resnet50

import medcam
from medcam.engine import guided
from medcam.engine.memory.lean import LeanBackward, normalisations
from medcam.targets import class_score
from support.nets import Classifier, UNet, image
from support.saved import saved_bytes

pytestmark = pytest.mark.usefixtures("unchecked_layer")


def _conv(dims: int, *args: object, transposed: bool = False, **options: object) -> nn.Module:
    name = f"Conv{'Transpose' if transposed else ''}{dims}d"
    return getattr(nn, name)(*args, **options)


OPERATIONS = {
    "conv": lambda d: _conv(d, 4, 6, 3, padding=1),
    "conv without bias": lambda d: _conv(d, 4, 6, 3, bias=False),
    "strided": lambda d: _conv(d, 4, 6, 3, stride=2, padding=1),
    "uneven": lambda d: _conv(d, 4, 6, (1, 3, 5)[:d], stride=(1, 2, 3)[:d], padding=(0, 1, 2)[:d]),
    "grouped": lambda d: _conv(d, 4, 8, 3, groups=2),
    "depthwise": lambda d: _conv(d, 4, 4, 3, groups=4, padding=1),
    "dilated": lambda d: _conv(d, 4, 6, 3, dilation=2),
    "padding by name": lambda d: _conv(d, 4, 6, 3, padding="same"),
    "transposed": lambda d: _conv(d, 4, 6, 2, stride=2, transposed=True),
    "transposed, output padding": lambda d: _conv(
        d, 4, 6, 3, stride=2, padding=1, output_padding=1, transposed=True
    ),
    "transposed, grouped": lambda d: _conv(d, 4, 6, 3, stride=2, groups=2, transposed=True),
    "transposed, dilated": lambda d: _conv(d, 4, 6, 3, dilation=2, transposed=True),
    "batch norm": lambda d: getattr(nn, f"BatchNorm{d}d")(4),
    "batch norm, no affine": lambda d: getattr(nn, f"BatchNorm{d}d")(4, affine=False),
    "batch norm, no statistics": lambda d: getattr(nn, f"BatchNorm{d}d")(
        4, track_running_stats=False
    ),
    "instance norm": lambda d: getattr(nn, f"InstanceNorm{d}d")(4),
    "relu": lambda d: nn.ReLU(),
    "leaky relu": lambda d: nn.LeakyReLU(0.2),
    "leaky relu, no slope": lambda d: nn.LeakyReLU(0.0),
    "leaky relu, negative slope": lambda d: nn.LeakyReLU(-0.2),
    "max pool": lambda d: getattr(nn, f"MaxPool{d}d")(3, 2, 1),
    "max pool, ceil": lambda d: getattr(nn, f"MaxPool{d}d")(2, ceil_mode=True),
    "max pool, dilated": lambda d: getattr(nn, f"MaxPool{d}d")(2, 1, dilation=2),
    "avg pool": lambda d: getattr(nn, f"AvgPool{d}d")(2),
    "avg pool, padded": lambda d: getattr(nn, f"AvgPool{d}d")(3, 2, 1, count_include_pad=False),
}


def outcome(net: nn.Module, x: Tensor, *, lean: bool) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    with LeanBackward() if lean else contextlib.nullcontext():
        y = net(leaf)
    seed = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return y.detach(), torch.autograd.grad(y, leaf, seed)[0]


@pytest.mark.parametrize(
    ("operation", "dims", "dtype"),
    [
        (operation, dims, dtype)
        for operation in OPERATIONS
        for dims in (2, 3)
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
        if not (dims == 3 and dtype == torch.bfloat16 and "avg pool" in operation)  # not in PyTorch
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_every_operation_is_the_same_bit_for_bit(operation, dims, dtype):
    net = OPERATIONS[operation](dims).to(dtype).eval().requires_grad_(False)
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    x = torch.randn(2, 4, *[9, 10, 11][:dims], dtype=dtype)
    expected, found = outcome(net, x, lean=False), outcome(net, x, lean=True)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert found[1].any()


@pytest.mark.parametrize(
    "function",
    [
        torch.relu, F.relu, Tensor.relu, lambda x: F.relu(x * 1, inplace=True),
        lambda x: torch.relu_(x * 1), lambda x: (x * 1).relu_(),
        lambda x: F.leaky_relu(x * 1, 0.1, inplace=True), lambda x: F.leaky_relu_(x * 1, 0.1),
        lambda x: F.relu((x * 1)[:, :2], inplace=True), lambda x: F.relu(x.transpose(1, 2)),
        lambda x: F.relu(x) + torch.relu(-x) * x,
    ],
)  # fmt: skip
def test_rectifiers_in_every_spelling(function):
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    x = torch.randn(2, 4, 5, 6)
    x[0, 0, 0, 0] = 0
    expected, found = outcome(Net(), x, lean=False), outcome(Net(), x, lean=True)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize(
    "net", [nn.ReLU(), nn.ReLU(True), nn.LeakyReLU(0.1), nn.LeakyReLU(0.1, True)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "how", [lambda y: y, lambda y: y[:, :, ::2], lambda y: y.sum(1).expand(3, -1)]
)
def test_rectifiers_of_large_tensors_go_piece_by_piece(net, dtype, how):
    x = torch.randn(1, 3, 2**17 + 5, dtype=dtype)  # more than one piece, and a rest
    x[0, 0, ::3] = 0
    leaf = x.clone().requires_grad_()
    results = []
    for mode in (LeanBackward(), contextlib.nullcontext()):
        with mode:
            y = net(leaf * 1)
        part = how(y)
        seed = torch.linspace(-1, 1, part.numel(), dtype=dtype).view(part.shape)
        results.append((y, *torch.autograd.grad(part, leaf, seed)))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)
    assert (results[0][1] != 0).any()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "how", [lambda y: y, lambda y: y[..., ::2], lambda y: y.sum(1, True).expand(-1, 8, -1, -1)]
)
def test_batch_norms_of_large_tensors_are_two_factors(how, dtype, affine, monkeypatch):
    kernels: list[Tensor] = []
    kernel = normalisations._kernel

    def spied(grad: Tensor, *rest: object) -> Tensor:
        kernels.append(grad)
        return kernel(grad, *rest)

    monkeypatch.setattr(normalisations, "_kernel", spied)
    net = nn.BatchNorm2d(8, affine=affine).to(dtype).eval().requires_grad_(False)
    for values in net.state_dict().values():
        if values.ndim:
            values.uniform_(0.1, 3)
    leaf = torch.randn(2, 8, 256, 257, dtype=dtype).requires_grad_()
    results = []
    for mode in (LeanBackward(), contextlib.nullcontext()):
        with mode:
            part = how(net(leaf))
        seed = torch.linspace(-1, 1, part.numel(), dtype=dtype).view(part.shape)
        results.append(torch.autograd.grad(part, leaf, seed)[0])
    assert torch.equal(*results)
    assert results[0].any()
    assert max(grad.numel() for grad in kernels) == 8  # the kernel computes only the factors


def test_parameters_that_require_gradients_get_them():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.randn(2, 4, 8, 8)
    expected = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    with LeanBackward():
        found = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_the_same_bit_for_bit(dtype):
    net, x = UNet(3).eval().requires_grad_(False), image(3)
    with torch.autocast("cpu", dtype=dtype):
        expected, found = outcome(net, x, lean=False), outcome(net, x, lean=True)
    assert expected[0].dtype == dtype
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def _unet(norm: type[nn.Module]) -> nn.Module:
    return PlainConvUNet(
        input_channels=1, n_stages=4, features_per_stage=[8, 16, 32, 64], conv_op=nn.Conv3d,
        kernel_sizes=3, strides=[1, 2, 2, 2], num_classes=3, conv_bias=True, norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, n_conv_per_stage=2, n_conv_per_stage_decoder=2,
    )  # fmt: skip


def _naive(net: nn.Module, x: Tensor, layer: str) -> int:
    """Return the bytes saved by a plain forward pass with gradients of the parameters."""
    return saved_bytes(net, lambda: net.requires_grad_(True)(x))


def _floor(net: nn.Module, x: Tensor, layer: str) -> int:
    """Return the bytes that PyTorch saves if the graph begins at the layer."""
    net.requires_grad_(False)

    def begin(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output.detach().requires_grad_().clone()

    handle = net.get_submodule(layer).register_forward_hook(begin)
    try:
        return saved_bytes(net, lambda: net(x))
    finally:
        handle.remove()


def _ours(net: nn.Module, x: Tensor, layer: str) -> int:
    return saved_bytes(net, lambda: medcam.explain(net, x, layer=layer, target=class_score(1)))


CASES = {
    "ResNet50, layer4": (resnet50, (1, 3, 64, 64), "layer4", 1.0, 0.1),
    "U-Net, last decoder stage": (
        lambda: _unet(nn.InstanceNorm3d), (1, 1, 32, 32, 32), "decoder.stages.2", 0.1, 0.1,
    ),
    "nnU-Net, bottleneck": (
        lambda: _unet(nn.InstanceNorm3d), (1, 1, 32, 32, 32), "encoder.stages.3", 0.7, 0.5,
    ),
    "BatchNorm U-Net, bottleneck": (
        lambda: _unet(nn.BatchNorm3d), (1, 1, 32, 32, 32), "encoder.stages.3", 0.1, 0.125,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_kept_are_a_fraction(case):
    build, shape, layer, of_floor, of_naive = CASES[case]
    net, x = build().eval(), torch.rand(shape)
    ours, floor, naive = (count(net, x, layer) for count in (_ours, _floor, _naive))
    assert ours <= of_floor * floor
    assert ours <= of_naive * naive


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (resnet18, (2, 3, 64, 64)),
        (densenet121, (1, 3, 64, 64)),
        (efficientnet_b0, (1, 3, 64, 64)),
        (lambda: _unet(nn.InstanceNorm3d), (1, 1, 16, 16, 16)),
        (lambda: _unet(nn.BatchNorm3d), (1, 1, 16, 16, 16)),
        (lambda: Classifier(3, inplace=True), (2, 1, 12, 12, 12)),
    ],
)
def test_maps_are_the_same_bit_for_bit(build, shape, monkeypatch):
    net, x = build().eval(), torch.rand(shape)
    options = {"method": ["hirescam", "ggcam", "gbp"], "layer": "auto", "target": class_score(1)}
    lean = medcam.explain(net, x, **options)
    monkeypatch.setattr("medcam.engine.memory.lean._RULES", {})
    full = medcam.explain(net, x, **options)
    assert torch.equal(lean.output, full.output)
    for key, expected in full.maps.items():
        assert expected.values.any() or key[0] == "ggcam"  # its Grad-CAM may be all negative
        assert torch.equal(lean.maps[key].values, expected.values)


def test_a_failing_lean_backward_is_repeated_with_a_warning(monkeypatch):
    from medcam.engine.memory import lean

    def backward(*_: object) -> None:
        raise RuntimeError("a kernel without a placeholder")

    net, x = UNet().eval(), image()
    expected = medcam.explain(net, x, layer="bottleneck", target=class_score(1))
    monkeypatch.setattr(lean, "_FOLDER", Path(__file__).parent)
    monkeypatch.setattr(lean.convolutions._Convolution, "backward", staticmethod(backward))
    with pytest.warns(medcam.errors.MedcamWarning, match="repeated"):
        found = medcam.explain(net, x, layer="bottleneck", target=class_score(1))
    assert torch.equal(found.map.values, expected.map.values)


def test_the_users_own_errors_are_not_repeated():
    class Broken(Classifier):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Broken.calls += 1
            raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match="my own"):
        medcam.explain(Broken().eval(), image())
    assert Broken.calls == 1
    net, calls = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(5, 4, 3)).eval(), []
    net[1].register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(RuntimeError, match="5 channels"):
        medcam.explain(net, image(), layer="1")
    assert len(calls) == 1


@pytest.mark.parametrize("rectifier", [F.relu, F.leaky_relu])
@pytest.mark.parametrize("method", ["gcam", "saliency", "gbp"])
def test_a_model_that_differentiates_twice_itself(rectifier, method, monkeypatch):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                y = self.first(x).add(1)
                y = y if y.requires_grad else y.requires_grad_()
                score = self.second(rectifier(y)).pow(3).sum()
                (grad,) = torch.autograd.grad(score, y, create_graph=True)
                return grad.pow(2).mean((2, 3))

    net, x = Net().double().eval(), image().double()
    options = {"layer": "first", "method": method, "target": 1}
    found = medcam.explain(net, x, **options).map.values  # a warning would be an error
    monkeypatch.setattr("medcam.engine.memory.lean._fits", lambda _: False)
    assert torch.equal(medcam.explain(net, x, **options).map.values, found)
    assert found.any()


def test_slope_zero_turns_an_infinite_gradient_into_zero():
    leaf = torch.tensor([-1.0, 1.0]).requires_grad_()
    with LeanBackward():
        score = (F.leaky_relu(leaf, 0.0) * torch.tensor([-torch.inf, 2.0])).sum()
    with guided.rectified(score):
        (grad,) = torch.autograd.grad(score, leaf)
    assert torch.equal(grad, torch.tensor([0.0, 2.0]))


def test_the_graph_is_plain_again_after_guided_gradients():
    net, x = Classifier().eval().requires_grad_(False), image().requires_grad_()
    with LeanBackward():
        scores = net(x)[:, 1:2]
    (before,) = torch.autograd.grad(scores.sum(), x, retain_graph=True)
    with guided.rectified(scores):
        (within,) = torch.autograd.grad(scores.sum(), x, retain_graph=True)
    (after,) = torch.autograd.grad(scores.sum(), x)
    assert torch.equal(before, after)
    assert not torch.equal(before, within)
