"""Where cells lie, against what averaging networks return for an image of coordinates.

The oracle knows nothing of kernels: an image whose voxels hold their own coordinate goes through a
network that only averages, moves or rearranges values. What a cell then holds is its position.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from medcam.engine.model.placement.reading import NotOnImageError, arrangement_of
from medcam.engine.model.placement.rules.registry import RULES
from medcam.engine.model.placement.tracer import Tracer
from support.places import averaging, coordinates, deviation


def conv(rank, **options):
    return getattr(nn, f"Conv{rank}d")(1, 1, **options)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "padding": 0},
        {"kernel_size": 3, "stride": 3},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 7, "stride": 2, "padding": 3},
        {"kernel_size": 3, "dilation": 3, "padding": 3},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "stride": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "replicate", "stride": 3},
        {"kernel_size": 5, "stride": 2, "padding": "valid"},
        {"kernel_size": 5, "padding": "same", "dilation": 2},
    ],
    ids=str,
)
def test_convolutions(rank, options):
    if isinstance(options.get("padding"), str) and options.get("stride", 1) > 1:
        assert options["padding"] == "valid"
    net = averaging(nn.Sequential(conv(rank, **options), nn.Identity(), conv(rank, **options)))
    assert deviation(net, (1, 1, *[41] * rank)) > 0


def test_anisotropic_kernels_and_strides():
    net = nn.Sequential(
        nn.Conv3d(1, 2, (1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.Conv3d(2, 4, 3, (2, 2, 1), 1)
    )
    assert deviation(averaging(net), (1, 1, 16, 40, 30)) > 0


def test_grouped_and_depthwise_convolutions():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 5, 2, 2, groups=4), nn.Conv2d(4, 8, 3, groups=2)
    )
    assert deviation(averaging(net), (1, 1, 48, 40)) > 0


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.MaxPool2d, nn.LPPool2d])
def test_pooling(pool, ceil_mode):
    if pool is nn.LPPool2d:
        net = nn.Sequential(nn.LPPool2d(1, 3, 2, ceil_mode=ceil_mode), nn.AvgPool2d(3))
        with torch.no_grad():
            image = coordinates((1, 1, 40, 40), 2)
            tracer = Tracer([image])
            with tracer:
                output = net(image)
        grid = arrangement_of(tracer.origins(output)[0], (1, 1, 40, 40)).grid
        assert grid.start == (3.0, 3.0)
        assert grid.step == (6.0, 6.0)
        return
    # the largest of three coordinates is the last one: one voxel beyond the centre
    offset = 1.0 if pool is nn.MaxPool2d else 0.0
    net = nn.Sequential(pool(3, 2, ceil_mode=ceil_mode), nn.AvgPool2d(3, 2, 1, ceil_mode=ceil_mode))
    assert deviation(net, (1, 1, 41, 38), tolerated=offset + 1e-9) > 0


def test_adaptive_pooling_and_unpooling():
    assert deviation(nn.AdaptiveAvgPool2d((5, 8)), (1, 1, 40, 40)) > 0
    assert deviation(nn.AdaptiveAvgPool3d((4, None, 5)), (1, 1, 24, 6, 20)) > 0

    class Segnet(nn.Module):
        def forward(self, x):
            y, places = F.max_pool2d(x, 2, return_indices=True)
            return F.avg_pool2d(F.max_unpool2d(y, places, 2), 2, divisor_override=1)

    # the unpooled maximum is the last voxel of its window, half a voxel beyond the centre
    assert deviation(Segnet(), (1, 1, 24, 24), tolerated=0.5 + 1e-9) > 0


@pytest.mark.parametrize(
    "up",
    [
        nn.ConvTranspose2d(1, 1, 2, 2),
        nn.ConvTranspose2d(1, 1, 3, 2, 1, 1),
        nn.ConvTranspose2d(1, 1, 4, 2, 1),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Upsample(scale_factor=3, mode="nearest-exact"),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Upsample(size=(17, 23), mode="bilinear"),
        nn.Upsample(scale_factor=1.7, mode="bilinear", recompute_scale_factor=False),
        nn.Upsample(scale_factor=2, mode="bicubic"),
    ],
    ids=str,
)
def test_upsampling(up):
    """Each step repeats or mixes cells: the mean of its cells is the place; half a step is left."""
    net = averaging(nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), up))
    assert deviation(net, (1, 1, 64, 64), tolerated=1.01) > 0


def test_the_mean_place_of_upsampled_cells_is_exact():
    for up in (nn.ConvTranspose2d(1, 1, 2, 2), nn.Upsample(scale_factor=2)):
        net = averaging(nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), up, nn.AvgPool2d(2)))
        assert deviation(net, (1, 1, 64, 64)) > 0


def test_pixel_shuffle_divides_cells_and_its_inverse_joins_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.Conv2d(1, 4, 4, 4)

        def forward(self, x):
            return F.avg_pool2d(F.pixel_shuffle(self.down(x), 2), 2)

    assert deviation(averaging(Net()), (1, 1, 40, 40)) > 0
    unshuffled = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(16, 2, 1))
    assert deviation(averaging(unshuffled), (1, 1, 40, 32)) > 0


class Crops(nn.Module):
    """Padding, cropping, slicing, flipping and rolling."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x):
        x = F.pad(x, (3, 1, 2, 5))[:, :, 1:-2, ::2]
        x = F.pad(self.conv(x), (-1, -2, 0, -1))
        return torch.roll(torch.roll(x, (2, 3), (2, 3)), (-2, -3), (2, 3)).flip(3).narrow(2, 2, 9)


def test_padding_cropping_slicing_flipping():
    assert deviation(averaging(Crops()), (1, 1, 30, 44)) > 0


class Filled(nn.Module):
    """Tensors that are filled part by part, as torchvision's detectors batch their images."""

    def __init__(self, way):
        super().__init__()
        self.way, self.conv = way, nn.Conv2d(1, 1, 3, 2, 1)

    def forward(self, x):
        batch, _, rows, columns = x.shape
        if self.way == "padded batch":
            whole = x[0].new_full((batch, 1, rows + 8, columns + 3), 0.0)
            for image, part in zip(x.unbind(0), whole, strict=True):
                part[:, :rows, :columns].copy_(image)
            return self.conv(whole)
        if self.way == "centred":
            whole = torch.zeros(batch, 1, rows + 8, columns + 8, dtype=x.dtype)
            whole[:, :, 4 : rows + 4, 3 : columns + 3] = x
            return self.conv(whole)
        if self.way == "channels":
            features = self.conv(x)
            whole = torch.empty(batch, 2, *features.shape[2:], dtype=x.dtype)
            whole[:, :1], whole[:, 1:] = features, features * 1.0
            return whole
        whole = torch.zeros(batch, 1, rows // 2, columns, dtype=x.dtype)
        for row in range(rows // 2):  # every other row
            whole[:, :, row] = x[:, :, 2 * row + 1]
        return self.conv(whole)


@pytest.mark.parametrize("way", ["padded batch", "centred", "channels", "rows"])
def test_tensors_that_are_filled_part_by_part(way):
    assert deviation(averaging(Filled(way)), (3, 1, 24, 20)) > 0


class Tokens(nn.Module):
    """Patches of unequal extents as tokens, with other tokens around them."""

    def __init__(self, patch, before, after):
        super().__init__()
        rank = len(patch)
        self.embed = getattr(nn, f"Conv{rank}d")(1, 6, patch, patch)
        self.before, self.after = before, after
        self.mix = nn.Linear(6, 6)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        around = tokens.new_zeros(len(x), 1, 6)
        tokens = torch.cat(
            [*[around] * self.before, tokens, *[around.expand(-1, 1, -1)] * self.after], 1
        )
        return self.mix(tokens)


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from([2, 3, 4, 8]), min_size=2, max_size=3),
    st.lists(st.integers(2, 5), min_size=3, max_size=3),
    st.integers(0, 6),
    st.integers(0, 3),
)
@pytest.mark.hypothesis
def test_tokens_of_any_patch_with_any_number_of_registers(patch, counts, before, after):
    space = [p * n for p, n in zip(patch, counts, strict=False)]
    shape = (2, 1, *space)
    image = coordinates(shape, 2)
    net = averaging(Tokens(patch, before, after))
    tracer = Tracer([image])
    with tracer, torch.no_grad():
        output = net(image)
    reading = arrangement_of(tracer.origins(output)[0], shape)
    assert reading.evidence[2:] == tuple(counts[: len(patch)])
    assert reading.grid.step == tuple(float(p) for p in patch)
    values = reading.of(output).mean(1)
    expected = reading.grid.start[0] + patch[0] * torch.arange(counts[0]).double()
    torch.testing.assert_close(
        values.movedim(1, -1), expected.expand_as(values.movedim(1, -1)), rtol=0, atol=1e-9
    )


class Windows(nn.Module):
    """Windows of tokens as in a Swin: shifted, partitioned; returned inside, or put together."""

    def __init__(self, rank, window, *, inside):
        super().__init__()
        self.embed = getattr(nn, f"Conv{rank}d")(1, 4, 2, 2)
        self.rank, self.window, self.inside = rank, window, inside
        self.mix = nn.Linear(4, 4)

    def forward(self, x):
        x = self.embed(x).movedim(1, -1)
        batch, *space, channels = x.shape
        axes = tuple(range(1, self.rank + 1))
        x = torch.roll(x, [-1] * self.rank, axes)
        split = [n for extent in space for n in (extent // self.window, self.window)]
        x = x.reshape(batch, *split, channels)
        coarse = [1 + 2 * i for i in range(self.rank)]
        fine = [2 + 2 * i for i in range(self.rank)]
        order = [0, *coarse, *fine, x.ndim - 1]
        x = self.mix(x.permute(order).reshape(-1, self.window**self.rank, channels))
        if self.inside:
            return x
        x = x.reshape(batch, *[s // self.window for s in space], *[self.window] * self.rank, -1)
        back = [0, *[n for i in range(self.rank) for n in (1 + i, 1 + self.rank + i)], x.ndim - 1]
        x = x.permute(back).reshape(batch, *space, channels)
        return torch.roll(x, [1] * self.rank, axes)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("inside", [True, False])
def test_windows_of_tokens_are_put_back_in_place(rank, inside):
    assert deviation(averaging(Windows(rank, 2, inside=inside)), (2, 1, *[16, 8, 24][:rank])) > 0


class Unpadded(nn.Module):
    """An unpadded U-Net of three levels: the skip connections are cropped."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3), nn.Conv2d(o, o, 3))
            for i, o in ((1, 2), (2, 4), (4, 8))
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in ((8, 4), (4, 2)))
        self.merge = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3), nn.Conv2d(o, o, 3)) for i, o in ((8, 4), (4, 2))
        )

    def forward(self, x):
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.avg_pool2d(x, 2))
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[1::-1], strict=True):
            x = up(x)
            cut = [(s - t) // 2 for s, t in zip(skip.shape[2:], x.shape[2:], strict=True)]
            skip = skip[:, :, cut[0] : cut[0] + x.shape[2], cut[1] : cut[1] + x.shape[3]]
            x = merge(torch.cat([skip, x], 1))
        return x


def test_an_unpadded_unet_lies_in_the_middle_of_its_input():
    shape = (1, 1, 140, 124)
    net, image = averaging(Unpadded()), coordinates(shape, 2)
    tracer = Tracer([image])
    with tracer, torch.no_grad():
        output = net(image)
    grid = arrangement_of(tracer.origins(output)[0], shape).grid
    margins = [(s - o) / 2 for s, o in zip(shape[2:], output.shape[2:], strict=True)]
    assert grid.start == pytest.approx(margins)
    assert grid.step == pytest.approx([1, 1])
    assert deviation(net, shape, tolerated=1.0) > 0  # transposed convolutions repeat cells


LAYERS = st.sampled_from(
    [
        lambda r: conv(r, kernel_size=3, stride=2, padding=1),
        lambda r: conv(r, kernel_size=2, stride=2),
        lambda r: conv(r, kernel_size=3),
        lambda r: conv(r, kernel_size=3, dilation=2, padding=1),
        lambda r: conv(r, kernel_size=5, stride=3, padding=(1, 2, 0)[:r]),
        lambda r: getattr(nn, f"AvgPool{r}d")(2),
        lambda r: getattr(nn, f"AvgPool{r}d")(3, 2, 1, count_include_pad=False),
        lambda r: getattr(nn, f"ZeroPad{r}d")((2, 1, 0, 3, 1, 1)[: 2 * r]),
        lambda r: nn.Upsample(
            scale_factor=2, mode="bilinear" if r == 2 else "trilinear", align_corners=True
        ),
    ]
)


@settings(max_examples=40)
@given(st.sampled_from([2, 3]), st.lists(LAYERS, min_size=1, max_size=5))
@pytest.mark.hypothesis
def test_random_networks(rank, layers):
    extent = 61 if rank == 2 else 29
    net = averaging(nn.Sequential(*[layer(rank) for layer in layers]))
    with suppress(RuntimeError, NotOnImageError):  # too many strides for the extent
        # aligned corners put cells between others, of which those near a border see a little of it
        extents = [extent, extent - 2, extent + 1][:rank]
        deviation(net, (1, 1, *extents), tolerated=0.01)


TAGGED = {
    "sigmoid",
    "tanh",
    "sub",
    "mul",
    "add",
    "neg",
    "relu",
    "clamp",
    "clamp_min",
    "div",
    "silu",
}
"""Operations that PyTorch 2.4 tags as pointwise."""


def test_rectifiers_are_followed_whatever_this_pytorch_tags_as_pointwise():
    """PyTorch 2.4 does not tag leaky_relu and others, so nnU-Net's maps were stretched."""
    called = set()

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.add(func._schema.name.removeprefix("aten::").removesuffix("_"))
            return func(*args, **(kwargs or {}))

    image, names = torch.rand(2, 4, 6, 6), set(nn.modules.activation.__all__)
    for name in sorted(names - {"MultiheadAttention"}):
        options = (0.1, 0.0) if name == "Threshold" else (1,) if "oftm" in name else ()
        module = getattr(nn, name)(*(() if name == "Softmax2d" else options)).eval()
        with Names():
            module(image)
    assert called - TAGGED <= {*RULES, "empty_like"}
