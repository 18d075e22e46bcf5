"""Layout of a layer's output on the image: from its operations, or inferred from its shape."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import medcam
from medcam.engine.model.layouts import inferred_layout
from medcam.errors import MedcamWarning, NoMapError
from support.nets import conv, image


def reading(shape, space, module=None):
    layout = inferred_layout(shape, shape[0] if shape else 2, space, "unknown", module=module)
    return None if layout is None else (layout.kind, layout.space, layout.channels)


# ------------------------------------------------------------------------------- by the shape


@pytest.mark.parametrize(
    ("shape", "space"),
    [
        ((2, 64, 112, 112), (224, 224)),
        ((2, 7, 7, 7), (224, 224)),
        ((2, 16, 13, 10), (50, 40)),
        ((2, 16, 8, 8), (8, 32)),
        ((2, 32, 20, 96, 96), (20, 192, 192)),
        ((2, 256, 4, 4, 1), (64, 64, 9)),
    ],
)
def test_channels_first_is_the_default(shape, space):
    assert reading(shape, space) == ("channels first", shape[2:], shape[1])
    assert reading(shape, space, nn.Conv2d(1, shape[1], 1)) == reading(shape, space)


@pytest.mark.parametrize(
    ("shape", "space", "module"),
    [
        ((2, 7, 7, 768), (224, 224), None),  # channels first would exceed the input
        ((2, 48, 48, 48, 48), (96, 96, 96), nn.LayerNorm(48)),  # SwinUNETR's own default
        ((2, 96, 96, 96), (384, 384), nn.Linear(10, 96)),
        ((2, 8, 2, 2, 128), (16, 64, 64), nn.Sequential(nn.LayerNorm(128), nn.GELU())),
    ],
)
def test_channels_last_where_the_last_weights_or_the_extents_say_so(shape, space, module):
    assert reading(shape, space, module) == ("channels last", shape[1:-1], shape[-1])


def test_a_linear_layer_of_other_features_does_not_make_channels_last():
    """Such as the gate of a squeeze-and-excitation block."""
    gate = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Linear(8, 4))
    assert reading((2, 8, 8, 8), (32, 32), gate)[0] == "channels first"


@pytest.mark.parametrize(
    "shape",
    [
        (2, 3), (2, 3, 4, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 1, 3, 4, 4, 4),
        (2, 4, 20, 20), (2, 20, 20, 4),  # beyond the input
        (2, 16, 8), (2, 17, 8),  # tokens, whose grid cannot be seen
    ],
)  # fmt: skip
def test_shapes_that_are_refused(shape):
    assert reading(shape, (16, 16)) is None


def test_another_batch_size_does_not_lie_on_the_image():
    assert inferred_layout((8, 32, 4, 4), 2, (16, 16), "unknown") is None


class Opaque(nn.Module):
    """A network with an operation that medcam does not follow."""

    def __init__(self):
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU())
        self.after, self.head = nn.Conv2d(4, 4, 3, 2, 1), nn.Linear(4, 2)

    def forward(self, x):
        x = self.before(x)
        still = torch.eye(2, 3).expand(len(x), 2, 3)
        grid = nn.functional.affine_grid(still, list(x.shape), align_corners=False)
        x = nn.functional.grid_sample(x, grid, align_corners=False)
        return self.head(self.after(x).relu().mean((2, 3)))


def test_an_operation_that_is_not_followed_falls_back_and_says_so(caplog):
    net, x = Opaque().eval(), torch.rand(2, 1, 32, 32)
    assert medcam.explain(net, x, layer="before", target=1).map.grid.known
    with pytest.warns(MedcamWarning, match="unknown where the features of layer 'after'.*grid_sa"):
        item = medcam.explain(net, x, layer="after", target=1).map
    assert not item.grid.known
    assert "grid_sampler_2d" in item.grid.reason
    stretched = medcam.explain(net, x, layer="after", target=1, placement="resize").map
    assert torch.equal(item.values, stretched.values)
    assert stretched.grid.reason == "placement='resize'"
    caplog.set_level(logging.INFO, logger="medcam")
    medcam.explain(Opaque().eval(), x, layer="full", target=1)
    assert "unknown where the features of layer 'after'" in caplog.text


class Queries(nn.Module):
    """A DETR: CNN, transformer, object queries, which have no place in the image."""

    def __init__(self, width=16, queries=100):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, width, 8, 8), nn.ReLU())
        layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        layer = nn.TransformerDecoderLayer(width, 2, 32, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 1)
        self.queries, self.head = nn.Parameter(torch.randn(1, queries, width)), nn.Linear(width, 3)

    def forward(self, x):
        memory = self.encoder(self.backbone(x).flatten(2).transpose(1, 2))
        return self.head(self.decoder(self.queries.expand(len(x), -1, -1), memory))


@pytest.mark.parametrize("queries", [16, 64, 100])
def test_object_queries_are_no_picture(queries):
    torch.manual_seed(0)
    net, x = Queries(queries=queries).eval(), torch.rand(1, 1, 64, 64)
    ask = {"target": lambda logits: logits[:, :, 1].amax(1), "shape": None}
    explanation = medcam.explain(net, x, **ask)
    assert explanation.layer == "encoder"
    assert explanation.map.values.shape[2:] == (8, 8)
    with pytest.raises(NoMapError, match="does not lie on the input"):
        medcam.explain(net, x, layer="decoder", **ask)


# ------------------------------------------------------------------------------ through a call


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
