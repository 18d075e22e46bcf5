"""Views, samples and tiles that a network reorders, mirrors or crops before it sees them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import medcam
from medcam.errors import NoMapError

ASK = {"target": 1, "method": "gcam"}


def blob(row, column):
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return 3 * torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 18.0)


class Detector(nn.Module):
    """Network that finds a blob; what it does with its input is ``forward_of(encoder, x)``."""

    def __init__(self, forward_of, width=4):
        super().__init__()
        self.forward_of = forward_of
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()
        )
        for values in self.parameters():
            of_kernel = values.ndim == 4
            nn.init.constant_(values, 1 / 9 / values.shape[1] if of_kernel else -0.25)

    def forward(self, x):
        score = self.forward_of(self.encoder, x).mean(1, keepdim=True)
        return torch.cat([-score, score], 1)


def peaks(forward_of, x, *, layer="encoder", width=4, **options):
    """Return where each sample's map is largest, [view,] row and column; it has to be somewhere."""
    net = Detector(forward_of, width).eval()
    values = medcam.explain(net, x, layer=layer, **ASK, **options).map.values[:, 0]
    assert all(sample.any() for sample in values)
    return [tuple((sample == sample.max()).nonzero()[0].tolist()) for sample in values]


def of_views(encoder, views):
    """Return the largest features of any view."""
    features = encoder(views.flatten(0, 1)).amax((2, 3))
    return features.view(len(views), views.shape[1], -1).amax(1)


@pytest.fixture
def views():
    """Four views, with a blob in the last."""
    x = torch.zeros(1, 4, 1, 64, 64)
    x[0, 3, 0] = blob(53, 17)
    return x


@pytest.fixture
def samples():
    """Two samples, with a blob each."""
    return torch.stack([blob(53, 17), blob(26, 9)])[:, None]


def one_by_one(encoder, views, order):
    return torch.stack([encoder(views[:, i]).amax((2, 3)) for i in order], 1).amax(1)


def filled_into(views, count):
    result = torch.zeros(len(views), count, *views.shape[2:])
    result[:, : views.shape[1]] = views
    return result


def filled(views, order):
    result = torch.zeros_like(views)
    for place, view in enumerate(order):
        result[:, place] = views[:, view]
    return result


REORDERED = {
    "as they are": of_views,
    "index": lambda e, v: of_views(e, v[:, [1, 3, 0, 2]]),
    "some": lambda e, v: of_views(e, v[:, [3, 1]]),
    "every other": lambda e, v: of_views(e, v[:, 1::2]),
    "largest": lambda e, v: of_views(e, v[:, v.flatten(2).amax(2)[0].topk(3)[1]]),
    "stack": lambda e, v: of_views(e, torch.stack([v[:, i] for i in (1, 3, 0, 2)], 1)),
    "cat": lambda e, v: of_views(e, torch.cat([v[:, 1:2], v[:, 3:], v[:, :1], v[:, 2:3]], 1)),
    "cat in the batch": lambda e, v: (
        e(torch.cat([v[:, i] for i in (2, 3, 0)])).amax((2, 3)).amax(0, keepdim=True)
    ),
    "flip": lambda e, v: of_views(e, v.flip(1)),
    "roll": lambda e, v: of_views(e, v.roll(1, 1)),
    "twice": lambda e, v: of_views(e, v[:, [1, 3, 0, 2]].flip(1)[:, [2, 0, 1]]),
    "filled": lambda e, v: of_views(e, filled(v, (1, 3, 2, 0))[:, :3]),
    "one by one": lambda e, v: one_by_one(e, v, (1, 3, 2)),
    "by a mask": lambda e, v: of_views(e, v[:, torch.tensor([True, False, True, True])]),
    "padded": lambda e, v: of_views(e, torch.nn.functional.pad(v, (0,) * 6 + (0, 2))),
    "filled with more": lambda e, v: of_views(e, filled_into(v, 6)),
    "in mini-batches": lambda e, v: torch.stack(
        [of_views(e, part) for part in v.split(3, 1)], 1
    ).amax(1),
    "one encoder each": lambda e, v: e(v[:, 3]).amax((2, 3)) + v[:, 1].mean(),
    "rolled difference": lambda e, v: of_views(e, v - 0.01 * v.roll(1, 1)),
}


OF_ONE_SAMPLE = {"largest", "cat in the batch"}


@pytest.mark.parametrize(
    ("way", "batch"),
    [*((way, 1) for way in REORDERED), *((w, 2) for w in REORDERED if w not in OF_ONE_SAMPLE)],
)
@pytest.mark.parametrize("layer", ["encoder", "auto"])
def test_a_view_s_map_lies_on_that_view(way, layer, batch, views):
    if batch == 2:
        views = torch.cat([views.roll(1, -1), views])
    for number, (view, row, column) in enumerate(peaks(REORDERED[way], views, layer=layer)):
        assert view == 3
        assert abs(row - 53) <= 2
        assert abs(column - 17 - (number == 0) * (batch - 1)) <= 2


RUNS = {
    "samples and views": lambda e, v: torch.stack(
        [
            torch.stack([e(v[b : b + 1, i]).amax((2, 3))[0] for i in range(4)]).amax(0)
            for b in (1, 0)
        ]
    ).flip(0),
    "views and samples": lambda e, v: torch.stack(
        [torch.cat([e(v[b : b + 1, i]).amax((2, 3)) for b in (0, 1)]) for i in (3, 1, 0, 2)]
    ).amax(0),
    "time first": lambda e, v: (
        e(v.transpose(0, 1).flatten(0, 1)).amax((2, 3)).view(4, -1, 4).amax(0)
    ),
}


@pytest.mark.parametrize("layer", ["encoder", "auto"])
@pytest.mark.parametrize("way", RUNS)
def test_runs_over_samples_and_views(way, layer, views):
    views = torch.cat([views, views.flip(1)])
    assert peaks(RUNS[way], views, layer=layer) == [(3, 52, 16), (0, 52, 16)]


def test_other_views_of_each_sample_are_not_mixed_up(views):
    """The views that each sample's run sees differ: one map cannot hold them by the first run."""
    views = torch.cat([views, views.roll(3, 1)])  # in view 3, and in view 2

    def forward_of(encoder, v):
        runs = [encoder(v[b, index]) for b, index in enumerate(([0, 3, 1], [0, 2, 1]))]
        return torch.stack([run.amax((2, 3)).amax(0) for run in runs])

    with pytest.raises(NoMapError, match="several views or samples"):
        peaks(forward_of, views)


@pytest.mark.parametrize("batch", [1, 2])
def test_tiles_of_views_one_by_one(batch, views):
    def forward_of(encoder, v):
        halves = [v[..., :32].flatten(0, 1), v[..., 32:].flatten(0, 1)]
        features = torch.stack([encoder(half).amax((2, 3)) for half in halves]).amax(0)
        return features.view(len(v), 4, -1).amax(1)

    views = torch.cat([views, views.flip(1)])[:batch]
    assert peaks(forward_of, views) == [(3, 52, 16), (0, 52, 16)][:batch]


def test_tiles_of_views_in_different_orders_are_not_mixed_up(views):
    def forward_of(encoder, v):
        runs = [v[:, [0, 1, 2, 3]][..., 32:], v[:, [0, 3, 1, 2]][..., :32]]
        features = torch.stack([encoder(run.flatten(0, 1)).amax((2, 3)) for run in runs]).amax(0)
        return features.view(len(v), 4, -1).amax(1)

    with pytest.warns(medcam.errors.MedcamWarning, match="last run"):
        assert peaks(forward_of, views) == [(3, 52, 16)]


def test_warnings_number_the_samples_of_the_image():
    class Muted(Detector):
        def forward(self, x):
            score = self.encoder(x[[1, 2, 0]]).mean((1, 2, 3)) * torch.tensor([1.0, 1.0, 0.0])
            return torch.stack([-score, score], 1)[[2, 0, 1]]

    with pytest.warns(medcam.errors.MedcamWarning, match=r"zero at layer .* sample\(s\) 0:"):
        medcam.explain(Muted(None).eval(), torch.rand(3, 1, 64, 64) + 1, **ASK)


@pytest.mark.parametrize("layer", ["block", "auto"])
def test_a_transformer_over_views_one_by_one(layer, views):
    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed = nn.Conv2d(1, 16, 8, 8)
            self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
            self.head = nn.Linear(16, 2)

        def forward(self, v):
            tokens = [self.embed(v[:, i]).flatten(2).transpose(1, 2) for i in range(4)]
            return self.head(torch.stack([self.block(t).mean(1) for t in tokens], 1).mean(1))

    values = medcam.explain(Transformer().eval(), views + 0.1, layer=layer, **ASK).map.values
    assert tuple(values.shape) == (1, 1, 4, 64, 64)
    assert values[0, 0].flatten(1).any(1).all()


@pytest.mark.parametrize("view", range(4))
def test_a_layer_of_pairs_of_views_is_not_interpolated(view):
    """CC and MLO of each breast, fused: the other breast has nothing of it."""

    class Pairs(Detector):
        def __init__(self):
            super().__init__(None)
            self.fused = nn.Conv2d(8, 4, 1)
            nn.init.constant_(self.fused.weight, 1 / 8)

        def forward(self, v):
            features = self.encoder(v.flatten(0, 1))
            features = self.fused(features.view(2 * len(v), 8, *features.shape[2:]))
            score = features.amax((1, 2, 3)).view(len(v), 2).amax(1, keepdim=True)
            return torch.cat([-score, score], 1)

    views = torch.zeros(1, 4, 1, 64, 64)
    views[0, view, 0] = blob(53, 17)
    values = medcam.explain(Pairs().eval(), views, layer="fused", **ASK).map.values
    seen = values[0, 0].flatten(1).amax(1) > 0
    assert seen.tolist() == [view < 2, view < 2, view > 1, view > 1]


@pytest.mark.parametrize("method", ["gbp", "saliency"])
def test_maps_of_the_input_keep_views_whose_place_is_unknown(method, views):
    for way in ("cat", "in place"):
        net = Detector(lambda e, v, way=way: of_views(e, MIRRORED[way](v))).eval()
        values = medcam.explain(net, views, target=1, method=method).map.values
        assert tuple(values.shape) == (1, 1, 4, 64, 64)
        assert values[0, 0].flatten(1).any(1).tolist() == [False, False, False, True]


def test_views_of_an_encoder_each_lie_on_that_view(views):
    class Two(Detector):
        def __init__(self):
            super().__init__(None)
            self.second = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU())
            nn.init.constant_(self.second[0].weight, 1 / 9)

        def forward(self, v):
            score = self.encoder(v[:, 1]).amax((1, 2, 3)) + self.second(v[:, 3]).amax((1, 2, 3))
            return torch.stack([-score, score], 1)

    explanation = medcam.explain(Two().eval(), views, layer={"encoder", "second"}, **ASK)
    for layer, view in (("second", 3),):
        values = explanation.maps[layer].values[0, 0]
        assert values.flatten(1).any(1).tolist() == [i == view for i in range(4)]


def test_a_run_without_a_place_is_said(views):
    def forward_of(encoder, v):
        sides = [v[:, 3], v[..., :32][:, 1] - v[..., 32:][:, 1].flip(-1)]
        return torch.stack([encoder(side).amax((2, 3)) for side in sides]).amax(0)

    with pytest.warns(medcam.errors.MedcamWarning, match="also ran where it has no map"):
        medcam.explain(Detector(forward_of).eval(), views, layer="encoder", **ASK)


def test_views_keep_their_axis_at_a_layer_of_one_channel(views):
    ((view, row, column),) = peaks(of_views, views, width=1)
    assert (view, row, column) == (3, 52, 16)


def test_views_that_the_network_does_not_see_are_zero(views):
    views = views.flip(1)  # the blob is in view 0
    net = Detector(lambda e, v: of_views(e, v[:, 0::2])).eval()
    map_ = medcam.explain(net, views, layer="encoder", **ASK).map
    assert map_.values[0, 0].amax((1, 2)).gt(0).tolist() == [True, False, False, False]
    own = medcam.explain(net, views, layer="encoder", shape=None, **ASK).map
    assert tuple(own.values.shape) == (1, 1, 4, 16, 16)
    assert own.values[0, 0].amax((1, 2)).gt(0).tolist() == [True, False, False, False]


FLAGS = torch.tensor([0, 0, 1, 1.0])[None, :, None, None, None] > 0


def in_place(views):
    views = views.clone()
    views[:, 2:] = views[:, 2:].flip(-1)
    return views


def filled_with_mirrored(views, *, singly):
    result = torch.zeros_like(views)
    if singly:
        for view in range(4):
            result[:, view] = views[:, view].flip(-1) if view > 1 else views[:, view]
    else:
        result[:, 2:], result[:, :2] = views[:, 2:].flip(-1), views[:, :2]
    return result


MIRRORED = {
    "cat": lambda v: torch.cat([v[:, :2], v[:, 2:].flip(-1)], 1),
    "stack": lambda v: torch.stack([v[:, 0], v[:, 1], v[:, 2].flip(-1), v[:, 3].flip(-1)], 1),
    "two": lambda v: torch.stack([v[:, 0], v[:, 3].flip(-1)], 1),
    "where": lambda v: torch.where(FLAGS, v.flip(-1), v),
    "overlapping crops": lambda v: torch.stack([v[:, 0, :, :24, :24], v[:, 0, :, 3:27, 5:29]], 1),
    "shifted": lambda v: torch.stack([v[:, 0], v[:, 3].roll(16, -1)], 1),
    "in place": in_place,
    "filled": lambda v: filled_with_mirrored(v, singly=False),
    "filled singly": lambda v: filled_with_mirrored(v, singly=True),
}


@pytest.mark.parametrize("layer", ["encoder", "auto"])
@pytest.mark.parametrize("way", MIRRORED)
def test_views_of_which_some_are_mirrored_are_refused(way, layer, views):
    with pytest.raises(NoMapError, match="place"):
        peaks(lambda e, v: of_views(e, MIRRORED[way](v)), views, layer=layer)


@pytest.mark.parametrize("layer", ["encoder", "auto"])
def test_runs_on_mirrored_and_other_views_are_refused(layer, views):
    def forward_of(encoder, v):
        sides = [v[:, i] if i < 2 else v[:, i].flip(-1) for i in range(4)]
        return torch.stack([encoder(side).amax((2, 3)) for side in sides], 1).amax(1)

    with pytest.raises(NoMapError, match="mirrored"):
        peaks(forward_of, views, layer=layer)


def test_the_same_mirroring_of_all_views_keeps_their_places(views):
    assert peaks(lambda e, v: of_views(e, v.flip(-1)), views) == [(3, 52, 18)]


def crop(sample):
    """Return a crop of 24 x 24 around the brightest voxel of ``[channels, 64, 64]``."""
    row, column = divmod(int(sample.flatten().argmax()), 64)
    row, column = min(max(row - 12, 0), 40), min(max(column - 12, 0), 40)
    return sample[:, row : row + 24, column : column + 24]


def one_mirrored(x):
    x = x.clone()
    x[1] = x[1].flip(-1)
    return x


def filled_behind_a_view(x):
    """Return a view of a tensor, made before its samples were filled from different places."""
    result = torch.zeros_like(x)
    view = result.squeeze(1)
    result[0], result[1] = x[0], x[1].flip(-1)
    return view[:, None]


OTHER_PLACES = {
    "filled behind a view": filled_behind_a_view,
    "crops in cat": lambda x: torch.cat([crop(sample)[None] for sample in x]),
    "crops in stack": lambda x: torch.stack([crop(sample) for sample in x]),
    "one mirrored": lambda x: torch.stack([x[0], x[1].flip(-1)]),
    "one mirrored in place": one_mirrored,
    "one sample twice": lambda x: x[[1, 1]],
    "channels of a mirrored copy": lambda x: torch.cat([x, x.flip(-1)], 1).chunk(2, 1)[1],
    "hemispheres": lambda x: x[..., :32] - x[..., 32:].flip(-1),
    "halves as channels": lambda x: torch.cat([x[..., :32], x[..., 32:]], 1).mean(1, True),
}


@pytest.mark.parametrize("layer", ["encoder", "auto"])
@pytest.mark.parametrize("way", OTHER_PLACES)
def test_samples_of_other_places_are_refused(way, layer, samples):
    with pytest.raises(NoMapError, match=r"place|beside each other|twice"):
        peaks(lambda e, x: e(OTHER_PLACES[way](x)).amax((2, 3)), samples, layer=layer)


@pytest.mark.parametrize("order", [[1, 0], [0, 1]])
def test_samples_in_another_order_keep_their_maps(order, samples):
    def forward_of(encoder, x):
        return encoder(x[order]).amax((2, 3))[order]

    assert peaks(forward_of, samples) == [(52, 16), (24, 8)]


def quarters(x, order="rows"):
    first, second = (0, 32), (0, 32)
    places = [(r, c) for r in first for c in second]
    places = places if order == "rows" else [(r, c) for c, r in places]
    return [x[..., r : r + 32, c : c + 32] for r, c in places]


def of_tiles(encoder, tiles, count):
    return encoder(tiles.flatten(0, 1)).amax((2, 3)).view(-1, count, 4).amax(1)


TILES = {
    "stack": lambda e, x: of_tiles(e, torch.stack(quarters(x), 1), 4),
    "stack by columns": lambda e, x: of_tiles(e, torch.stack(quarters(x, "columns"), 1), 4),
    "cat": lambda e, x: e(torch.cat(quarters(x))).amax((2, 3)).view(4, -1, 4).amax(0),
    "halves": lambda e, x: (
        e(torch.cat([x[..., :32], x[..., 32:]])).amax((2, 3)).view(2, -1, 4).amax(0)
    ),
    "permute": lambda e, x: of_tiles(
        e, x.view(-1, 1, 2, 32, 2, 32).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 1, 32, 32), 4
    ),
    "one by one": lambda e, x: torch.stack([e(t).amax((2, 3)) for t in quarters(x)], 1).amax(1),
    "one by one, by columns": lambda e, x: torch.stack(
        [e(t).amax((2, 3)) for t in quarters(x, "columns")], 1
    ).amax(1),
    "rows one by one": lambda e, x: torch.stack(
        [e(x[..., r : r + 16, :]).amax((2, 3)) for r in (48, 0, 16, 32)], 1
    ).amax(1),
}


@pytest.mark.parametrize("layer", ["encoder", "auto"])
@pytest.mark.parametrize("way", TILES)
def test_tiles_make_up_the_picture_again(way, layer, samples):
    for (row, column), (r, c) in zip(
        peaks(TILES[way], samples, layer=layer), [(53, 17), (26, 9)], strict=True
    ):
        assert abs(row - r) <= 3
        assert abs(column - c) <= 3


@pytest.mark.parametrize("layer", ["encoder", "auto"])
def test_tiles_that_overlap_are_refused_in_a_batch(layer, samples):
    def forward_of(encoder, x):
        tiles = [x[..., r : r + 32, c : c + 32] for r in (0, 16, 32) for c in (0, 16, 32)]
        return of_tiles(encoder, torch.stack(tiles, 1), 9)

    with pytest.raises(NoMapError, match="more than once"):
        peaks(forward_of, samples, layer=layer)


def test_of_tiles_that_overlap_one_by_one_the_last_is_shown_with_a_warning(samples):
    def forward_of(encoder, x):
        tiles = [x[..., r : r + 32, c : c + 32] for r in (0, 16, 32) for c in (0, 16, 32)]
        return torch.stack([encoder(tile).amax((2, 3)) for tile in tiles], 1).amax(1)

    net = Detector(forward_of).eval()
    with pytest.warns(medcam.errors.MedcamWarning, match="parts of the same image that do not til"):
        values = medcam.explain(net, samples, layer="encoder", **ASK).map.values
    assert not values[..., :24, :24].any()


BAGS = {
    "mini-batches": lambda e, x: torch.cat([e(part).amax((2, 3)) for part in x.split(2)]).amax(
        0, keepdim=True
    ),
    "chosen": lambda e, x: e(x[[3, 1, 4]]).amax((2, 3)).amax(0, keepdim=True),
    "chosen one by one": lambda e, x: torch.stack(
        [e(x[i : i + 1]).amax((2, 3)) for i in (1, 4, 2)]
    ).amax(0),
    "reversed": lambda e, x: e(x.flip(0)).amax((2, 3)).amax(0, keepdim=True),
    "padded": lambda e, x: (
        e(torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 0, 0, 2))).amax((2, 3)).amax(0, keepdim=True)
    ),
    "by a mask": lambda e, x: (
        e(x[torch.tensor([False, True, True, False, True])]).amax((2, 3)).amax(0, keepdim=True)
    ),
}


@pytest.mark.parametrize("layer", ["encoder", "auto"])
@pytest.mark.parametrize("place", [1, 4])
@pytest.mark.parametrize("way", BAGS)
def test_slices_of_a_bag_lie_where_they_are(way, place, layer):
    bag = torch.zeros(5, 1, 64, 64)
    bag[place, 0] = blob(53, 17)
    assert peaks(BAGS[way], bag, layer=layer, layout="bag") == [(place, 52, 16)]


def test_slices_that_a_network_mixes_are_put_back(views):
    """A reversed bag before a convolution over the slices."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Conv3d(1, 1, 3, padding=1, bias=False)
            nn.init.constant_(self.encoder.weight, 1 / 27)

        def forward(self, x):
            score = self.encoder(x.flip(0).transpose(0, 1)[None]).amax((2, 3, 4))
            return torch.cat([-score, score], 1)

    bag = torch.zeros(5, 1, 64, 64)
    bag[1, 0] = blob(53, 17)
    values = medcam.explain(Mixed().eval(), bag, layer="encoder", layout="bag", **ASK).map.values
    assert int(values[0, 0].flatten(1).amax(1).argmax()) in (0, 1, 2)
    assert not values[0, 0, 4].any()


def test_without_a_layer_the_error_says_why(samples):
    with pytest.raises(NoMapError, match=r"'encoder\.0' has no map, because samples"):
        peaks(lambda e, x: e(OTHER_PLACES["crops in cat"](x)).amax((2, 3)), samples, layer="auto")


def test_an_operation_in_place_that_cannot_be_followed_is_said():
    """The rule's own error must not leave the places of before."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            whole = torch.zeros(len(x), 1, 16, 16)
            whole.view(-1)[: x.numel()] = x.reshape(-1)
            return self.head(self.encoder(whole).mean((2, 3)))

    with pytest.warns(medcam.errors.MedcamWarning, match="unknown where the features"):
        medcam.explain(Net().eval(), torch.rand(2, 1, 16, 16), layer="encoder", **ASK)


class ClassToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 16, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.block(tokens)[:, 0])


def test_a_named_block_whose_patch_tokens_are_unused_warns(samples):
    with pytest.warns(medcam.errors.MedcamWarning, match="class token"):
        medcam.explain(ClassToken().eval(), samples, layer="block", **ASK)
    with pytest.warns(medcam.errors.MedcamWarning, match="class token"):
        medcam.explain(ClassToken().eval(), samples, layer={"block", "embed"}, **ASK)
