"""Circular shifts, fills, colours and odd extents, with what comes after them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import medcam
from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.reading import arrangement_of
from medcam.engine.model.placement.tracer import Tracer
from medcam.errors import NoMapError
from support.places import ASK, Steered, blob, column

X = blob(40, 20)[None, None]


def grid_of(forward, shape=(1, 1, 64, 64), memory=torch.contiguous_format):
    """Return the grid of what a function makes of an image."""
    image = torch.rand(shape).to(memory_format=memory)
    tracer = Tracer([image])
    with tracer, torch.no_grad():
        geometry = tracer.origins(forward(image))[0]
    assert isinstance(geometry, Geometry), geometry
    return arrangement_of(geometry, image.shape).grid


SHIFTED = {
    "before a stride": lambda m, x: x.roll(16, -1),
    "twice": lambda m, x: x.roll((16, 5), (-1, -2)).roll((-6, 1), (-1, -2)),
    "fftshift": lambda m, x: torch.fft.fftshift(x, (-2, -1)),
    "mirrored after": lambda m, x: x.roll(16, -1).flip(-1),
    "mirrored before": lambda m, x: x.flip(-1).roll(16, -1),
    "undone, then cut": lambda m, x: x.roll(16, -1).roll(-16, -1)[..., 4:],
}


@pytest.mark.parametrize("way", SHIFTED)
def test_circular_shifts_are_undone(way):
    assert abs(column(Steered(SHIFTED[way]).eval(), X) - 20) <= 1


CUT = {
    "cut": lambda m, x: x.roll(-10, -1)[..., :44],
    "padded": lambda m, x: F.pad(x.roll(16, -1), (4, 4)),
    "by half a cell": lambda m, x: x.roll(3, -1),
}


@pytest.mark.parametrize("way", CUT)
def test_circular_shifts_that_cannot_be_undone_are_refused(way):
    with pytest.raises(NoMapError, match="shifted circularly"):
        column(Steered(CUT[way]).eval(), X)


def test_shifts_of_a_few_cells_that_are_joined_are_their_mean():
    """As in S2-MLP, AS-MLP and ShiftViT."""
    shape = (1, 8, 32, 32)

    def groups(x):
        a, b, c, d = F.conv2d(x, torch.ones(8, 8, 1, 1)).chunk(4, 1)
        return torch.cat([a.roll(2, -1), b.roll(-2, -1), c.roll(2, -2), d.roll(-2, -2)], 1)

    assert grid_of(groups, shape).start == (0.0, 0.0)
    assert grid_of(lambda x: x.roll(1, -1) + x.roll(-1, -1), shape).start == (0.0, 0.0)
    with pytest.raises(AssertionError, match="different circular shifts"):
        grid_of(lambda x: x.roll(16, -1) + x, shape)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pad", [1, 3])
def test_circular_padding_of_the_functional(pad, memory):
    def forward(x):
        return F.pad(x, (pad,) * 4, mode="circular")

    assert grid_of(forward, memory=memory).start == (-pad, -pad)
    assert abs(column(Steered(lambda m, x: forward(x)).eval(), X) - 20) <= 1


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_fills_of_one_channel_in_any_memory_format(memory):
    def forward(x):
        result = torch.zeros_like(x)
        result[..., 8:, 3:] = x[..., :-8, :-3]
        return result

    assert grid_of(forward, memory=memory).start == (-8.0, -3.0)


@pytest.mark.parametrize(("size", "rounds"), [(64, 3), (79, 3), (45, 2)])
def test_unpooling_of_odd_extents(size, rounds):
    def forward(x):
        taken = []
        for _ in range(rounds):
            extent = x.shape[2:]
            x, index = F.max_pool2d(x, 2, return_indices=True)
            taken.append((index, extent))
        for index, extent in reversed(taken):
            x = F.max_unpool2d(x, index, 2, output_size=extent)
        return x

    grid = grid_of(forward, (1, 1, size, size))
    assert grid.start == (0.0, 0.0)
    assert grid.step == (1.0, 1.0)


COLOURS = {
    "difference": lambda m, x: x[:, :1] - x[:, 1:2],
    "magnitude": lambda m, x: (x[:, :1] ** 2 + x[:, 1:2] ** 2).sqrt(),
    "sum of coils": lambda m, x: x.view(len(x), 3, 1, *x.shape[2:]).sum(1),
    "mean of coils": lambda m, x: x.view(len(x), 3, 1, *x.shape[2:]).mean(1),
    "where": lambda m, x: torch.where(x[:, :1] > x[:, 1:2], x[:, :1], x[:, 1:2]),
    "repeated": lambda m, x: torch.cat([x[:, :1], x[:, :1], x[:, 1:2]], 1).mean(1, True),
    "grey as colours": lambda m, x: x[:, [0, 0, 0]][:, 1:2],
    "in another order": lambda m, x: x[:, [2, 1, 0]].mean(1, True),
    "order of a flip": lambda m, x: x.flip(1)[:, 1:],
}


@pytest.mark.parametrize("layer", ["encoder", "auto"])
@pytest.mark.parametrize("way", COLOURS)
def test_colours_are_no_places(way, layer):
    x = torch.cat([X, 0.5 * X, 0.2 * X], 1)
    model = Steered(COLOURS[way])
    if way == "order of a flip":
        model.encoder[0] = torch.nn.Conv2d(2, 4, 3, 2, 1)
        torch.nn.init.constant_(model.encoder[0].weight, 1 / 18)
    values = medcam.explain(model.eval(), x, **{**ASK, "layer": layer}).map
    assert values.grid.known
    assert tuple(values.values.shape) == (1, 1, 64, 64)
    assert abs(int(values.values.argmax()) % 64 - 20) <= 1


def test_one_colour_written_over_another_falls_back_with_a_warning():
    def forward(model, x):
        x = x.clone()
        x[:, 0] = x[:, 1]
        return x.mean(1, True)

    with pytest.warns(medcam.errors.MedcamWarning, match="written in place"):
        column(Steered(forward).eval(), torch.cat([X, X], 1))


def test_the_shift_of_s2_mlp_in_place_falls_back_with_a_warning():
    def forward(model, x):
        x = x.clone()
        x[..., 1:] = x[..., :-1].clone()
        return x

    with pytest.warns(medcam.errors.MedcamWarning, match="written in place"):
        column(Steered(forward).eval(), X)


def test_channels_after_a_concatenation_may_be_taken_apart():
    """Of a U-Net's skip and its upsampled features, which lie a little beside each other."""

    def forward(x):
        deep = F.interpolate(F.avg_pool2d(x, 16, 16), scale_factor=16)
        joined = torch.cat([x, deep], 1)
        first, second = joined.chunk(2, 1)
        return torch.where(first > second, first, second) + F.glu(joined, 1)

    grid = grid_of(forward, (1, 4, 64, 64))
    assert all(abs(start) < 0.5 for start in grid.start)


WARPED = {
    "normalised": lambda w, x: w / x.amax((1, 2, 3), keepdim=True),
    "centred": lambda w, x: w - x.mean((2, 3), keepdim=True),
    "gated": lambda w, x: w * torch.sigmoid(x.mean((1, 2, 3), keepdim=True)),
}


@pytest.mark.parametrize("way", WARPED)
def test_an_unknown_operation_beside_a_global_factor_falls_back(way):
    def forward(model, x):
        grid = F.affine_grid(torch.eye(2, 3)[None], x.shape, align_corners=False)
        return WARPED[way](F.grid_sample(x, grid, align_corners=False), x)

    with pytest.warns(medcam.errors.MedcamWarning, match="grid_sampler"):
        assert abs(column(Steered(forward).eval(), X) - 20) <= 2


@pytest.mark.parametrize("window", [1, 3])
def test_triples_of_slices_by_a_table_of_indices(window):
    """2.5D: the slices before and after each slice are its channels."""

    class Triples(Steered):
        def forward(self, v):  # [batch, slices, H, W]
            table = torch.arange(6 - window + 1)[:, None] + torch.arange(window)
            triples = v[:, table].flatten(0, 1)
            score = self.encoder(triples).flatten(1).mean(1).view(len(v), -1).amax(1)
            return torch.stack([-score, score], 1)

    model = Triples(None)
    model.encoder[0] = torch.nn.Conv2d(window, 4, 3, 2, 1)
    torch.nn.init.constant_(model.encoder[0].weight, 1 / 9 / window)
    volume = torch.zeros(1, 6, 64, 64)
    volume[0, 3] = blob(40, 20)
    values = medcam.explain(model.eval(), volume, **ASK).map.values[0, 0]
    brightest = values.flatten(1).amax(1)
    assert abs(int(values.argmax()) % 64 - 20) <= 1
    assert abs(int(brightest.argmax()) - 3) <= window // 2


def test_a_mirrored_copy_of_features_is_not_taken_out_of_a_concatenation():
    """Its cells run against the image; those of the whole lie where they are not mirrored."""

    def joined(x):
        features = F.conv2d(x, torch.ones(4, 1, 1, 1))
        return torch.cat([features, features.flip(-1)], 1)

    assert grid_of(joined).start == (0.0, 0.0)
    with pytest.raises(AssertionError, match="taken apart"):
        grid_of(lambda x: joined(x).chunk(2, 1)[1])


@pytest.mark.parametrize("way", ["index", "cat"])
def test_windows_of_slices_that_are_clamped_at_the_borders(way):
    """2.5D, one window after the other: the first and the last slice are taken twice."""

    class Clamped(Steered):
        def forward(self, v):
            scores = []
            for i in range(6):
                numbers = [max(i - 1, 0), i, min(i + 1, 5)]
                slices = torch.cat([v[:, n : n + 1] for n in numbers], 1)
                window = v[:, numbers] if way == "index" else slices
                scores.append(self.encoder(window).flatten(1).mean(1))
            score = torch.stack(scores, 1).amax(1)
            return torch.stack([-score, score], 1)

    model = Clamped(None)
    model.encoder[0] = torch.nn.Conv2d(3, 4, 3, 2, 1)
    torch.nn.init.constant_(model.encoder[0].weight, 1 / 27)
    volume = torch.zeros(1, 6, 64, 64)
    volume[0, 3] = blob(40, 20)
    values = medcam.explain(model.eval(), volume, **ASK).map.values[0, 0]
    assert abs(int(values.flatten(1).amax(1).argmax()) - 3) <= 1
    assert not values[0].any()


def test_an_empty_run_is_passed_over():
    class Empty(Steered):
        def forward(self, x):
            features = [self.encoder(x[:0]), self.encoder(x), self.encoder(x[2:])]
            score = torch.cat(features).flatten(1).mean(1)
            return torch.stack([-score, score], 1)

    values = medcam.explain(Empty(None).eval(), torch.cat([X, X]), **ASK).map.values
    assert [int(v.argmax()) % 64 for v in values] == [20, 20]


def test_a_layer_inside_vmap_says_so():
    class Mapped(Steered):
        def forward(self, x):
            score = torch.vmap(lambda sample: self.encoder(sample[None]).mean())(x)
            return torch.stack([-score, score], 1)

    with pytest.raises(NoMapError, match="wrapped tensor"):
        medcam.explain(Mapped(None).eval(), torch.cat([X, X]), **ASK)
