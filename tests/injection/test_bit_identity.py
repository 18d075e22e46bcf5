"""Predictions are the same bit for bit, also where memory is laid out channels last."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

import medcam
from medcam.engine.model.copies import graph_node, strided_copy
from support.nets import conv

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
EVERY_CALL = [
    {},
    {"method": ["gcam", "gbp"]},
    {"layer": "full"},
    {"method": "saliency"},
    {"method": "gcam", "layer": ["0", "1", "2"]},
]


class ChannelNorm(nn.Module):
    """A LayerNorm over the channels, as in ConvNeXt: its output is channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class EveryOther(nn.Module):
    """Every other channel: a view with gaps."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2]


class FirstChannel(nn.Module):
    """One channel of a channels-last tensor: a view with gaps whose channel axis has extent 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=CHANNELS_LAST[x.ndim - 2])[:, :1]


def pick(options: list) -> object:
    return options[int(torch.randint(len(options), ()))]


def random_net(seed: int, dims: int) -> tuple[nn.Module, int]:
    """Return a network of random layers, many of them channels last, and its input channels."""
    torch.manual_seed(seed)
    channels = pick([1, 3])
    parts: list[nn.Module] = []
    width = channels
    for _ in range(pick([2, 3, 4])):
        after = pick([1, 2, 16, 32])
        parts.append(conv(dims, width, after, 3, padding=1, stride=pick([1, 2])))
        parts.append(pick([ChannelNorm(after), nn.GELU(), nn.ReLU(True), nn.Identity()]))
        if torch.rand(()) < 0.4:
            norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims]
            parts.append(pick([norm(after), ChannelNorm(after)]))
        width = after
        if torch.rand(()) < 0.3:
            parts.append(pick([EveryOther(), FirstChannel()]))
            width = (after + 1) // 2 if isinstance(parts[-1], EveryOther) else 1
    parts.append(conv(dims, width, 32, 3, padding=1))
    pool = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dims]
    net = nn.Sequential(*parts, pool(1), nn.Flatten(), nn.Linear(32, 3)).eval()
    return (net.to(memory_format=CHANNELS_LAST[dims]) if torch.rand(()) < 0.3 else net), channels


def random_input(seed: int, dims: int, channels: int, dtype: torch.dtype) -> Tensor:
    """Return a batch of one in one of several layouts of memory."""
    space = [33, 40, 17][:dims]
    dense = torch.randn(1, channels, *space, dtype=dtype)
    return [
        dense,
        dense.contiguous(memory_format=CHANNELS_LAST[dims]),
        torch.randn(1, *space, channels, dtype=dtype).movedim(-1, 1),
        torch.randn(1, *space, 2 * channels, dtype=dtype).movedim(-1, 1)[:, ::2],
        dense[:, :1].expand(-1, channels, *space),
    ][seed % 5]


@pytest.mark.filterwarnings("ignore::medcam.errors.MedcamWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_prediction_of_a_batch_of_one_is_the_same(dims, dtype):
    compared = 0
    for seed in range(20):
        net, channels = random_net(seed, dims)
        net, x = net.to(dtype), random_input(seed, dims, channels, dtype)
        with torch.no_grad():
            plain = net(x)
        assert torch.equal(medcam.inject(net)(x), plain), seed  # as in the README
        with torch.no_grad():
            assert torch.equal(medcam.inject(net, layer="1")(x), plain), seed
        for kwargs in EVERY_CALL:
            try:
                output = medcam.explain(net, x, **kwargs).output
            except medcam.errors.NoMapError:  # no rectifier, or no layer of several voxels
                continue
            assert torch.equal(output, plain), (seed, kwargs)
            compared += 1
    assert compared > 70


def test_the_prediction_in_inference_mode_is_the_same():
    """Its tensors are copied: those of the input, of the layers, and of the parameters."""
    net = nn.Sequential(nn.Conv2d(3, 32, 3), ChannelNorm(32), nn.Conv2d(32, 64, 3), nn.GELU())
    net = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3)).eval()
    with torch.inference_mode():
        x = torch.randn(1, 96, 96, 6).movedim(-1, 1)[:, ::2]
        plain = net(x)
        assert torch.equal(medcam.inject(net)(x), plain)
        assert torch.equal(medcam.explain(net, x, method=["gcam", "gbp"]).output, plain)


LAYOUTS = {
    "dense": torch.randn(2, 3, 4, 5, dtype=torch.float64),
    "channels last, one sample": torch.randn(1, 4, 5, 3, dtype=torch.float64).permute(0, 3, 1, 2),
    "channels last, one channel": torch.randn(2, 4, 5, 1, dtype=torch.float64).movedim(-1, 1),
    "a channel of a channels-last tensor": torch.randn(2, 4, 5, 3, dtype=torch.float64).movedim(
        -1, 1
    )[:, 1:2],
    "every other channel": torch.randn(2, 6, 4, 5, dtype=torch.float64)[:, ::2],
    "3D, one slice": torch.randn(1, 1, 4, 5, 3, dtype=torch.float64).movedim(-1, 1),
    "expanded along an axis of extent 1": torch.randn(2, 1, 4, 5, dtype=torch.float64).expand(
        2, 1, 4, 5
    ),
    "transposed": torch.randn(1, 3, 4, 5, dtype=torch.float64).transpose(2, 3),
}


@pytest.mark.parametrize("kind", ["plain", "MetaTensor"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("copied", [strided_copy, graph_node])
def test_a_copy_keeps_every_stride_and_can_be_derived_twice(copied, layout, kind):
    x = LAYOUTS[layout]
    x = MetaTensor(x) if kind == "MetaTensor" else x
    leaf = x.detach().requires_grad_()
    copy = copied(leaf)
    assert copy.stride() == leaf.stride() == LAYOUTS[layout].stride()
    assert type(copy) is type(x)
    assert copy.grad_fn is not None
    assert torch.equal(copy, x)
    (grad,) = torch.autograd.grad((copy**3).sum(), leaf, create_graph=True)
    torch.testing.assert_close(grad, 3 * x**2)
    torch.testing.assert_close(torch.autograd.grad(grad.sum(), leaf)[0], 6 * x)


def test_a_copy_of_an_expanded_tensor_may_be_changed():
    x = torch.randn(1, 1, 4, 4).expand(1, 3, 4, 4)
    copy = strided_copy(x)
    copy[:, 0] = 7
    assert torch.equal(copy[:, 1:], x[:, 1:])
    assert not torch.equal(copy, x)
