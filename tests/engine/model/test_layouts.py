"""Layout of a layer's output on the image, inferred from its shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import medcam
from medcam.engine.model.layouts import Layout, layout_of, main_tensor
from support.nets import conv, image


def reading(shape, space):
    layout = layout_of(shape, shape[0], space)
    if layout is None:
        return None
    return layout.kind, layout.space, layout.channels, layout.prefix


@pytest.mark.parametrize(
    ("shape", "space"),
    [
        ((2, 64, 112, 112), (224, 224)),
        ((2, 768, 7, 7), (224, 224)),
        ((2, 7, 7, 7), (224, 224)),
        ((1, 1, 8, 8), (8, 8)),
        ((2, 16, 12, 12), (50, 50)),  # a border cut off
        ((2, 16, 13, 10), (50, 40)),  # or padded
        ((2, 16, 8, 8), (8, 32)),  # anisotropic strides, 2D
        ((2, 64, 1, 32), (32, 32)),
        ((2, 32, 20, 96, 96), (20, 192, 192)),  # and as nnU-Net plans them for thick slices
        ((2, 64, 20, 48, 48), (20, 192, 192)),
        ((2, 128, 10, 24, 24), (20, 192, 192)),
        ((2, 320, 5, 6, 6), (20, 192, 192)),
        ((2, 320, 20, 12, 12), (20, 192, 192)),
        ((2, 32, 32, 128, 128), (32, 256, 256)),
        ((2, 32, 64, 64, 16), (128, 128, 16)),
        ((2, 256, 4, 4, 1), (64, 64, 9)),
        ((2, 8, 2, 2, 2), (16, 16, 16)),
        ((2, 3, 1, 1), (16, 16)),
        ((2, 4, 20, 20), (10, 10)),  # larger than the input: an upsampled decoder
    ],
)
def test_channels_first_is_the_default(shape, space):
    assert reading(shape, space) == ("channels first", shape[2:], shape[1], 0)


class Strided(nn.Module):
    """A convolution, a pooling to some shape, global average pooling and a linear layer."""

    def __init__(self, channels, space):
        super().__init__()
        self.conv = conv(len(space), 1, channels, 1)
        self.pool = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[len(space)](space)
        self.head = nn.Linear(channels, 2)

    def forward(self, x):
        return self.head(self.pool(self.conv(x)).flatten(2).mean(2))


@pytest.mark.parametrize(
    ("channels", "space", "whole"),
    [
        (12, (16, 32), (64, 64)),
        (6, (20, 8, 8), (20, 32, 32)),
        # as many channels as the first axis would have, were they last
        (16, (16, 32), (64, 64)),
        (8, (16, 16), (32, 64)),
        (8, (32, 32, 32), (32, 128, 128)),
    ],
)
def test_features_of_anisotropic_strides_are_channels_first(channels, space, whole):
    net, x = Strided(channels, space).double().eval(), torch.rand(2, 1, *whole).double()
    found = medcam.explain(net, x, method="hirescam", layer="pool", target=1, shape=None)
    A, w = net.pool(net.conv(x)).detach(), net.head.weight[1].detach()
    expected = torch.einsum("k,bk...->b...", w, A) / A[0, 0].numel()
    torch.testing.assert_close(found.map.values[:, 0], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("shape", "space", "expected"),
    [
        ((2, 7, 7, 768), (224, 224), (7, 7)),
        ((2, 56, 56, 96), (224, 224), (56, 56)),
        ((1, 14, 10, 384), (224, 160), (14, 10)),
        ((2, 13, 10, 96), (50, 40), (13, 10)),
        ((2, 4, 8, 8, 48), (8, 16, 16), (4, 8, 8)),
        ((2, 2, 4, 4, 384), (16, 32, 32), (2, 4, 4)),
    ],
)
def test_channels_last_where_only_that_shrinks_every_axis_alike(shape, space, expected):
    assert reading(shape, space) == ("channels last", expected, shape[-1], 0)


@pytest.mark.parametrize(
    ("shape", "space", "grid", "prefix"),
    [
        ((2, 196, 768), (224, 224), (14, 14), 0),
        ((2, 197, 768), (224, 224), (14, 14), 1),  # a class token
        ((2, 198, 768), (224, 224), (14, 14), 2),  # and one of distillation
        ((2, 261, 384), (224, 224), (16, 16), 5),  # and four registers
        ((2, 12, 32), (64, 48), (4, 3), 0),
        ((2, 13, 32), (64, 48), (4, 3), 1),
        ((2, 216, 768), (96, 96, 96), (6, 6, 6), 0),
        ((2, 49, 768), (96, 96, 32), None, 0),
        ((2, 73, 768), (96, 96, 32), (6, 6, 2), 1),
        ((2, 144, 96), (50, 50), (12, 12), 0),  # the border cut off
        ((2, 169, 96), (50, 50), (13, 13), 0),  # or padded
        ((2, 6, 32), (64, 64), (2, 2), 2),
        ((2, 200, 768), (224, 224), None, 0),
        ((2, 1, 768), (224, 224), None, 0),
    ],
)
def test_tokens(shape, space, grid, prefix):
    expected = None if grid is None else ("tokens", grid, shape[2], prefix)
    assert reading(shape, space) == expected


@pytest.mark.parametrize(
    "shape", [(), (2,), (2, 3), (2, 3, 4, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 1, 3, 4, 4, 4)]
)
def test_shapes_that_do_not_lie_on_the_image(shape):
    assert layout_of(shape, 2, (16, 16)) is None


def test_another_batch_size_does_not_lie_on_the_image():
    """Windows folded into the batch axis, as in Swin, or the axes of an RNN."""
    assert layout_of((8, 49, 96), 2, (56, 56)) is None
    assert layout_of((8, 32, 4, 4), 2, (16, 16)) is None


def test_every_layout_is_converted_to_channels_first():
    space = (3, 4)
    expected = torch.arange(2 * 5 * 12.0).reshape(2, 5, *space)
    forms = {
        Layout("channels first", space, 5): expected,
        Layout("channels last", space, 5): expected.permute(0, 2, 3, 1),
        Layout("tokens", space, 5): expected.flatten(2).transpose(1, 2),
        Layout("tokens", space, 5, prefix=2): torch.cat(
            [-torch.ones(2, 2, 5), expected.flatten(2).transpose(1, 2)], 1
        ),
    }
    for layout, values in forms.items():
        assert torch.equal(layout.channels_first(values), expected)


def test_the_first_tensor_that_lies_on_the_image_is_the_main_one():
    on, off = torch.rand(2, 3, 4, 4), torch.rand(2, 3)
    for output in (on, (off, on), {"a": None, "b": [off, on]}, (on.long(), on)):
        tensor, layout = main_tensor(output, 2, (8, 8), nn.Identity())
        assert tensor is on
        assert layout.kind == "channels first"
    for output in (None, off, "text", [], on.long(), (off, {"a": off})):
        assert main_tensor(output, 2, (8, 8), nn.Identity()) is None


# ------------------------------------------------------------------------------ through a call


class Mixed(nn.Module):
    """One convolution whose features are passed on channels first, channels last, and as tokens."""

    def __init__(self, dims):
        super().__init__()
        self.embed = conv(dims, 1, 10, 2, stride=2)
        self.last, self.tokens = Move(), Tokens()
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        return self.head(self.tokens(self.last(self.embed(x))).relu()[:, 1:].mean(1))


class Move(nn.Module):
    def forward(self, x):
        return x.movedim(1, -1)


class Tokens(nn.Module):
    def forward(self, x):
        rows = x.flatten(1, -2)
        return torch.cat([rows.mean(1, keepdim=True), rows], 1)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "method", ["gcam", "gcampp", "hirescam", "layercam", "xgradcam", "eigencam"]
)
def test_the_three_layouts_give_one_map(method, dims):
    net, x = Mixed(dims).double().eval(), image(dims, size=12).double()
    for weight in (net.embed.weight, net.head.weight):
        weight.data.abs_()
    layers = ["embed", "last", "tokens"]
    maps = medcam.explain(net, x, method=method, layer=layers, target=1, shape=None).maps
    for layer in layers:
        torch.testing.assert_close(maps[layer].values, maps["embed"].values, rtol=0, atol=1e-12)
        alone = medcam.explain(net, x, method=method, layer=layer, target=1, shape=None).map
        torch.testing.assert_close(alone.values, maps[layer].values, rtol=0, atol=1e-12)
    assert maps["embed"].values.any()
