"""Features that are mirrored, stitched, cropped, rolled, folded or split in other ways."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import medcam
from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.reading import arrangement_of
from medcam.engine.model.placement.tracer import Tracer
from support.places import averaging, deviation

ASK = {"target": 1, "method": "hirescam"}


class Net(nn.Module):
    """An encoder, what a test does before and after it, and a classifier."""

    def __init__(self, after=None, *, before=None, rank=2, channels=1, factor=1):
        super().__init__()
        torch.manual_seed(0)
        conv = nn.Conv2d if rank == 2 else nn.Conv3d
        self.encoder = nn.Sequential(conv(channels, 4, 3, 2, 1), nn.ReLU())
        self.after = nn.Identity() if after is None else after
        self.before = before
        self.head = nn.Linear(4 * factor, 2)

    def forward(self, *images):
        x = images[0] if self.before is None else self.before(*images)
        return self.head(self.after(self.encoder(x)).flatten(2).mean(2))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


MIRRORED = {
    "difference": (lambda y: (y - y.flip(-1)).abs(), 1),
    "difference the other way": (lambda y: (y.flip(-1) - y).abs(), 1),
    "both in the channels": (lambda y: torch.cat([y, y.flip(-1)], 1), 2),
    "both, mirrored first": (lambda y: torch.cat([y.flip(-1), y], 1), 2),
    "features and difference": (lambda y: torch.cat([y, y - y.flip(-1)], 1), 2),
    "along two axes": (lambda y: y * y.flip(-1, -2), 1),
}


@pytest.mark.parametrize("layer", ["after", "full", "auto"])
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("way", MIRRORED)
def test_features_joined_to_their_mirror_image_lie_where_they_are_not_mirrored(way, rank, layer):
    function, factor = MIRRORED[way]
    net = Net(Function(function), factor=factor, rank=rank).eval()
    x = torch.rand(2, 1, *(12, 16, 20)[:rank])
    for map_ in medcam.explain(net, x, layer=layer, **ASK).maps.values():
        assert map_.grid.known
        assert map_.grid.start == (0.0,) * rank
        assert map_.grid.step == (2.0,) * rank
        assert map_.values.isfinite().all()


class Pyramid(nn.Module):
    """The pyramid pooling of PSPNet."""

    def __init__(self, align_corners):
        super().__init__()
        self.align_corners = align_corners

    def forward(self, y):
        pooled = [
            F.interpolate(
                F.adaptive_avg_pool2d(y, bins), y.shape[2:], mode="bilinear",
                align_corners=self.align_corners,
            )
            for bins in (1, 2, 3, 6)
        ]  # fmt: skip
        return torch.cat([y, *pooled], 1)


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_pyramid_of_pooled_features_lies_where_its_fine_features_do(align_corners):
    net = Net(Pyramid(align_corners), factor=5).eval()
    grid = medcam.explain(net, torch.rand(1, 1, 64, 48), layer="after", **ASK).map.grid
    assert grid.known
    for axis, cells in enumerate((32, 24)):
        for cell in (0, cells // 2, cells - 1):
            assert grid.start[axis] + cell * grid.step[axis] == pytest.approx(2 * cell, abs=0.5)


COPIES = {
    "repeat": lambda x: x.repeat(3, 1, 1, 1),
    "cat": lambda x: torch.cat([x, x + 0.0, x * 1.0], 0),
    "stack": lambda x: torch.stack([x, x + 0.0, x * 1.0], 0).flatten(0, 1),
    "interleave": lambda x: x.repeat_interleave(3, 0),
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_of_an_image_in_the_batch_count_together(way):
    """Samples of dropout, and the like: the map is that of all, not of the first."""
    net, x = Net(before=COPIES[way]).double().eval(), torch.rand(2, 1, 16, 16).double()
    plain = Net().double().eval()
    mean = nn.Module()
    mean.net, fold = net, way == "interleave"

    def forward(x):
        scores = net(x)
        return scores.view(2, 3, 2).mean(1) if fold else scores.view(3, 2, 2).mean(0)

    mean.forward = forward
    map_ = medcam.explain(mean, x, layer="net.encoder", **ASK).map
    assert map_.grid.known
    expected = medcam.explain(plain, x, layer="encoder", **ASK).map.values
    torch.testing.assert_close(map_.values, expected, rtol=1e-10, atol=1e-14)


CROPS_IN_A_BATCH = {
    "quarters": lambda x: torch.cat([x[..., :8, :8], x[..., 8:, :8], x[..., 8:, 8:]], 0),
    "mirrored": lambda x: torch.cat([x, x.flip(-1)], 0),
    "zoomed": lambda x: torch.cat([x, F.interpolate(x[..., 4:12, 4:12], scale_factor=2.0)], 0),
    "overlapping": lambda x: torch.stack([x[..., :8], x[..., 6:14]], 0).flatten(0, 1),
}


@pytest.mark.parametrize("way", CROPS_IN_A_BATCH)
def test_several_crops_in_a_batch_are_refused(way):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net(before=CROPS_IN_A_BATCH[way])

        def forward(self, x):
            return self.net(x).view(-1, len(x), 2).mean(0)

    with pytest.raises(medcam.errors.NoMapError, match=r"beside each other|more than once|place"):
        medcam.explain(Several().eval(), torch.rand(2, 1, 16, 16), layer="net.encoder", **ASK)


def test_tiles_in_the_batch_are_put_together():
    class Tiles(Net):
        def forward(self, x):
            tiles = torch.stack([x[..., :8], x[..., 8:]], 1).flatten(0, 1)
            return super().forward(tiles).view(len(x), 2, 2).mean(1)

    net, x = Tiles().double().eval(), torch.rand(3, 1, 16, 16).double()
    own = medcam.explain(net, x, layer="encoder", shape=None, **ASK).map
    assert own.grid.start == (0.0, 0.0)
    assert own.grid.step == (2.0, 2.0)
    halves = [
        medcam.explain(Net().double().eval(), half, layer="encoder", shape=None, **ASK).map.values
        for half in x.split(8, -1)
    ]
    torch.testing.assert_close(own.values, torch.cat(halves, -1) / 2)


class PerSlice(nn.Module):
    """A network that looks at each slice, after a test has moved them."""

    def __init__(self, move=None):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.move = nn.Conv2d(1, 4, 3, 2, 1, bias=False), move
        self.head = nn.Linear(4, 2)

    def forward(self, v):
        v = v if self.move is None else self.move(v)
        f = self.encoder(v.transpose(1, 2).flatten(0, 1)).relu().mean((2, 3))
        return self.head(f.view(len(v), -1, 4).mean(1))


@pytest.mark.parametrize("shift", [1, 2, -1])
def test_rolled_slices_are_put_back(shift):
    v = torch.zeros(2, 1, 5, 16, 16)
    v[:, :, 1] = torch.rand(2, 1, 16, 16)
    net = PerSlice(lambda v: v.roll(shift, 2)).eval()
    values = medcam.explain(net, v, layer="encoder", **ASK).map.values[:, 0]
    assert values[:, 1].abs().sum() > 0
    assert not values[:, [0, 2, 3, 4]].any()


@pytest.mark.parametrize("shift", [1, 2])
def test_rolled_samples_are_put_back(shift):
    x = torch.zeros(3, 1, 16, 16)
    x[1] = torch.rand(1, 16, 16)
    net = Net(before=lambda x: x.roll(shift, 0)).eval()
    net.encoder[0].bias.data.zero_()
    values = medcam.explain(net, x, layer="encoder", **ASK).map.values
    assert values[1].abs().sum() > 0
    assert not values[[0, 2]].any()


class MaxViT(nn.Module):
    """Tokens in windows, then in a grid, as in torchvision's MaxViT: no skip connection between."""

    def __init__(self, window, *, inside=False):
        super().__init__()
        self.window, self.inside = window, inside

    def forward(self, y):
        p = self.window
        n, c, h, w = y.shape
        y = y.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)
        y = y.reshape(n, h * w // p**2, p * p, c)
        y = y.reshape(n, h // p, w // p, p, p, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)
        y = y.reshape(n, c, p, h // p, p, w // p).permute(0, 3, 5, 2, 4, 1)
        y = y.reshape(n, h * w // p**2, p * p, c)
        if self.inside:
            return y
        y = y.reshape(n, h // p, w // p, p, p, c).permute(0, 5, 3, 1, 4, 2)
        return y.reshape(n, c, h, w)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("space", "window"), [((56, 56), 7), ((24, 12), 4), ((28, 42), 7)])
def test_windows_then_grids_of_tokens(space, window, inside):
    net = nn.Sequential(nn.Conv2d(1, 2, 2, 2), MaxViT(window, inside=inside))
    assert deviation(averaging(net), (2, 1, 2 * space[0], 2 * space[1])) > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_axes_of_extent_one(batch, channels, slices):
    net = PerSlice().eval()
    net.encoder = nn.Conv2d(channels, 4, 3, 2, 1)
    map_ = medcam.explain(
        net, torch.rand(batch, channels, slices, 16, 12), layer="encoder", shape=None, **ASK
    ).map
    assert map_.values.shape == (batch, 1, slices, 8, 6)
    assert map_.grid.start == (0.0, 0.0, 0.0)
    assert map_.grid.step == (1.0, 2.0, 2.0)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_sets_of_one_view(batch, views):
    class Views(PerSlice):
        def forward(self, x):
            f = self.encoder(x.flatten(0, 1)).relu().mean((2, 3))
            return self.head(f.view(len(x), -1, 4).mean(1))

    x = torch.rand(batch, views, 1, 16, 12)
    map_ = medcam.explain(Views().eval(), x, layer="encoder", shape=None, **ASK).map
    assert map_.grid.known
    assert map_.values.shape == (batch, 1, views, 8, 6)


class Neighbours(nn.Module):
    """Weighted sums of neighbours by unfolding: involution, local attention."""

    def __init__(self, size, by_neighbours):
        super().__init__()
        self.size, self.by_neighbours = size, by_neighbours

    def forward(self, y):
        n, c, h, w = y.shape
        u = F.unfold(y, self.size, padding=self.size // 2).view(n, c, self.size**2, h * w)
        k = (u * y.view(n, c, 1, h * w)).sum(1, True) if self.by_neighbours else y.view(n, c, 1, -1)
        return (k * u).sum(2).view(n, c, h, w)


@pytest.mark.parametrize("by_neighbours", [False, True])
@pytest.mark.parametrize("size", [3, 7])
def test_sums_over_unfolded_neighbours_stay_where_they_are(size, by_neighbours):
    net = Net(Neighbours(size, by_neighbours)).eval()
    grid = medcam.explain(net, torch.rand(2, 1, 32, 24), layer="after", **ASK).map.grid
    assert grid.known
    assert grid.start == pytest.approx((0.0, 0.0), abs=1e-9)
    assert grid.step == pytest.approx((2.0, 2.0))


class Folded(nn.Module):
    """Patches as tokens, and a picture again (MobileViT)."""

    def __init__(self, size, padding=0):
        super().__init__()
        self.size, self.padding = size, padding

    def forward(self, y):
        patches = F.unfold(y, self.size, stride=self.size, padding=self.padding)
        ones = F.fold(
            torch.ones_like(patches), y.shape[2:], self.size, stride=self.size, padding=self.padding
        )
        folded = F.fold(patches, y.shape[2:], self.size, stride=self.size, padding=self.padding)
        return folded / ones


@pytest.mark.parametrize(("size", "padding"), [(2, 0), (4, 0), (2, 1)])
def test_folded_patches(size, padding):
    net = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), Folded(size, padding))
    assert deviation(averaging(net), (2, 1, 32, 48)) > 0


@pytest.mark.parametrize("k", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("dims", [(2, 3), (3, 2), (1, 2)])
def test_quarter_turns(k, dims):
    if 1 in dims and k % 2:
        return  # channels become rows: no picture
    net = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), Function(lambda y: y.rot90(k, dims)))
    assert deviation(averaging(net), (1, 1, 32, 48)) > 0


CHANNELS = {
    "colours in another order": lambda x: x[:, [2, 1, 0]],
    "colours that are no row": lambda x: x[:, [0, 2, 1]],
    "selected": lambda x: x.index_select(1, torch.tensor([2, 0])),
    "one": lambda x: x[:, [1]],
}


@pytest.mark.parametrize("way", CHANNELS)
def test_chosen_channels(way):
    channels = CHANNELS[way](torch.zeros(1, 3, 2, 2)).shape[1]
    net = Net(before=CHANNELS[way], channels=channels).eval()
    grid = medcam.explain(net, torch.rand(2, 3, 16, 12), layer="encoder", **ASK).map.grid
    assert grid.known
    assert grid.start == (0.0, 0.0)


def test_rows_in_reverse_order_are_mirrored():
    net = nn.Sequential(
        Function(lambda x: x[:, :, list(range(31, -1, -1))]), nn.Conv2d(1, 2, 3, 2, 1)
    )
    assert deviation(averaging(net), (1, 1, 32, 48)) > 0


LOST = {
    "sorted rows": lambda y: y.sort(2).values,
    "gathered": lambda y: y.gather(2, y.argsort(2)),
    "scattered": lambda y: torch.zeros_like(y).scatter(2, y.argsort(2), y),
    "indexed in another order": lambda y: y[:, :, [1, 0, *range(2, y.shape[2])]],
}


@pytest.mark.parametrize("way", LOST)
def test_values_that_have_been_moved_one_by_one_have_no_known_place(way):
    net = Net(Function(LOST[way])).eval()
    with pytest.warns(medcam.errors.MedcamWarning, match="unknown where the features"):
        map_ = medcam.explain(net, torch.rand(1, 1, 16, 16), layer="after", **ASK).map
    assert not map_.grid.known


@pytest.mark.parametrize("axis", [-1, -2])
def test_two_images_beside_each_other_have_a_map_each(axis):
    net = Net(before=lambda p, q: torch.cat([p, q], axis)).eval()
    p, q = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)
    maps = medcam.explain(net, p, q, layer="encoder", **ASK).maps
    whole = torch.cat([p, q], axis)
    together = medcam.explain(Net().eval(), whole, layer="encoder", **ASK).map.values
    halves = together.split(16, axis)
    assert len(maps) == 2
    for map_, half in zip(maps.values(), halves, strict=True):
        assert map_.grid.known
        torch.testing.assert_close(map_.values, half)


def test_images_written_into_the_channels_of_one_tensor():
    def filled(p, q):
        both = torch.zeros(len(p), 2, *p.shape[2:])
        both[:, 0], both[:, 1] = p[:, 0], q[:, 0]
        return both

    net = Net(before=filled, channels=2).eval()
    p, q = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)
    for image in ("0", "1"):
        map_ = medcam.explain(net, p, q, layer="encoder", image=int(image), **ASK).map
        assert map_.grid.known
        assert map_.grid.start == (0.0, 0.0)


@pytest.mark.parametrize("factors", [(1.0, 0.5), (0.5, 1.0)])
def test_runs_at_several_scales_are_told(factors):
    class Scales(Net):
        def forward(self, x):
            scaled = [F.interpolate(x, scale_factor=f) for f in factors]
            return sum(super(Scales, self).forward(item) for item in scaled)

    with pytest.warns(medcam.errors.MedcamWarning, match="ran several times on the same image"):
        medcam.explain(Scales().eval(), torch.rand(1, 1, 16, 16), layer="encoder", **ASK)


CROPPED = {
    "slice": (lambda x: x[..., 8:16, 4:20], ((7.5, 15.5), (3.5, 19.5))),
    "narrow": (lambda x: x.narrow(2, 8, 8), ((7.5, 15.5), (-0.5, 31.5))),
    "negative padding": (lambda x: F.pad(x, (-4, -12, -8, -16)), ((7.5, 15.5), (3.5, 19.5))),
    "padded again": (
        lambda x: F.pad(x[..., 8:16, 4:20], (4, 4, 4, 4)),
        ((7.5, 15.5), (3.5, 19.5)),
    ),
    "chunk": (lambda x: x.chunk(4, 2)[1], ((7.5, 15.5), (-0.5, 31.5))),
    "every other row": (lambda x: x[:, :, 8:16:2], ((7.5, 14.5), (-0.5, 31.5))),
    "zoomed": (
        lambda x: F.interpolate(x[..., 8:16, 4:20], scale_factor=2.0, mode="bilinear"),
        ((7.5, 15.5), (3.5, 19.5)),
    ),
}


@pytest.mark.parametrize("way", CROPPED)
def test_a_map_is_zero_beyond_a_crop(way):
    crop, seen = CROPPED[way]
    net = Net(before=crop).eval()
    x = torch.rand(1, 1, 32, 32)
    map_ = medcam.explain(net, x, layer="encoder", **ASK).map
    assert map_.grid.seen == seen
    inside = torch.zeros(32, 32, dtype=torch.bool)
    (top, bottom), (left, right) = [(int(a + 0.5), int(b + 0.5)) for a, b in seen]
    inside[top:bottom, left:right] = True
    assert not map_.values[0, 0][~inside].any()
    assert map_.values[0, 0][inside].abs().min() > 0
    coarse = medcam.explain(net, x, layer="encoder", shape=(16, 16), **ASK).map.values[0, 0]
    assert torch.equal(coarse != 0, inside[::2, ::2] | inside[1::2, 1::2])
    resized = medcam.explain(net, x, layer="encoder", placement="resize", **ASK).map
    assert resized.values.all()


@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_map_of_one_slice_lies_on_that_slice(index):
    net = Net(before=lambda v: v[:, :, index]).eval()
    map_ = medcam.explain(net, torch.rand(1, 1, 5, 16, 16), layer="encoder", **ASK).map
    others = [number for number in range(5) if number != index]
    assert map_.values[0, 0, index].any()
    assert not map_.values[0, 0, others].any()


class Random(nn.Module):
    """Crops between operations that widen what a cell sees."""

    def __init__(self, steps):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


class Crop(nn.Module):
    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x):
        return x[..., self.low : x.shape[-1] - self.high]


class Attention(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.fused = fused

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        if self.fused:
            heads = tokens.unsqueeze(1).contiguous()  # not only the plain formula
            mixed = F.scaled_dot_product_attention(heads, heads, heads).squeeze(1)
        else:
            mixed = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return mixed.transpose(1, 2).view_as(x)


class Skip(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.steps = nn.Sequential(*steps)

    def forward(self, x):
        y = self.steps(x)
        cut = (x.shape[-1] - y.shape[-1]) // 2
        return y + x[..., cut : cut + y.shape[-1]]


STEPS = st.one_of(
    st.builds(Crop, st.integers(0, 5), st.integers(0, 5)),
    st.builds(lambda k, s: nn.Conv2d(2, 2, (1, k), (1, s), (0, k // 2)), st.integers(1, 5),
              st.integers(1, 2)),
    st.builds(lambda k: nn.Conv2d(2, 2, (1, k)), st.integers(1, 3)),
    st.builds(Attention, st.booleans()),
    st.builds(lambda d: nn.Sequential(nn.Conv2d(2, 2, (1, 3), dilation=(1, d))), st.integers(1, 3)),
    st.builds(lambda: nn.Upsample(scale_factor=(1, 2), mode="bilinear")),
    st.builds(lambda: nn.Upsample(scale_factor=(1, 2), mode="nearest")),
    st.builds(lambda: nn.ConvTranspose2d(2, 2, (1, 4), (1, 2))),
    st.builds(lambda: nn.MaxPool2d((1, 3), (1, 2))),
    st.builds(lambda k: Skip([nn.Conv2d(2, 2, (1, 2 * k + 1))]), st.integers(1, 2)),
    st.builds(lambda: Function(lambda x: x.flip(-1))),
    st.builds(lambda: Function(lambda x: x.cumsum(-1))),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=6))
def test_nothing_beyond_what_is_seen_has_a_gradient(steps):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 1), *steps).double().eval()
    x = torch.rand(1, 1, 1, 48, dtype=torch.float64, requires_grad=True)
    tracer = Tracer([x])
    try:
        with tracer.following(net.modules()):
            y = net(x)
    except RuntimeError:
        return  # nothing is left
    geometry = tracer.origins(y)[0]
    if not y.numel() or not isinstance(geometry, Geometry):
        return
    (gradient,) = torch.autograd.grad((y * torch.rand_like(y)).sum(), x)
    reached = gradient[0, 0, 0].nonzero().flatten()
    if len(reached):
        low, high = geometry.seen[3]
        assert low <= float(reached.min()), (low, reached)
        assert float(reached.max()) <= high, (high, reached)


@pytest.mark.parametrize("mix", [Attention(fused=True), Attention(fused=False)])
def test_a_crop_after_attention_has_seen_all(mix):
    x = torch.rand(1, 2, 1, 48)
    tracer = Tracer([x])
    with tracer.following([]):
        y = Crop(8, 20)(mix(x))
        plain = Crop(8, 20)(x * 2)
    assert tracer.origins(y)[0].seen[3] == (-0.5, 47.5)
    assert tracer.origins(plain)[0].seen[3] == (7.5, 27.5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_crop_after_a_recurrent_layer_has_seen_all(bidirectional):
    x = torch.rand(1, 3, 48)
    net = nn.LSTM(3, 4, batch_first=True, bidirectional=bidirectional)
    tracer = Tracer([x])
    with tracer.following([net]):
        y = net(x.transpose(1, 2))[0][:, 8:28]
    assert tracer.origins(y)[0].seen[2] == (-0.5, 47.5)


def places(forward, shape=(1, 8, 56, 56)):
    """Return the first place on each axis of what a function makes of an image."""
    image = torch.rand(shape)
    tracer = Tracer([image])
    with tracer, torch.no_grad():
        geometry = tracer.origins(forward(image))[0]
    assert isinstance(geometry, Geometry), geometry
    return arrangement_of(geometry, image.shape).grid.start


def test_attention_with_relative_positions_stays_at_its_queries():
    """A bias of each query and key row, as in MViT, runs along the queries only."""
    key, table = nn.Conv2d(8, 8, 3, 4, 1), torch.rand(56, 14, 8)

    def forward(x):
        query, keys = x.flatten(2).transpose(1, 2), key(x).flatten(2)
        weights = (query @ keys).view(-1, 56, 56, 14, 14)
        rows = torch.einsum("byxc,ykc->byxk", x.permute(0, 2, 3, 1), table)
        columns = torch.einsum("byxc,xkc->byxk", x.permute(0, 2, 3, 1), table)
        weights = weights + rows[..., :, None] + columns[..., None, :]
        attended = weights.view(-1, 56**2, 14**2).softmax(-1) @ keys.transpose(1, 2)
        return attended.transpose(1, 2).reshape(x.shape)

    assert places(forward) == (0.0, 0.0)


def test_neighbours_that_attention_weighs_give_the_place():
    """The weights come from pooled features, as in VOLO; the values are what is seen."""
    weigh = nn.Linear(8, 81)

    def forward(x):
        values = F.unfold(x, 3, padding=1, stride=2).view(1, 8, 9, 784).permute(0, 3, 2, 1)
        weights = weigh(F.avg_pool2d(x, 2).permute(0, 2, 3, 1)).view(1, 784, 9, 9).softmax(-1)
        return F.fold(
            (weights @ values).permute(0, 3, 2, 1).reshape(1, 72, 784), (56, 56), 3, 1, 1, 2
        )

    assert places(forward) == (0.0, 0.0)
