"""Attention maps as values: display, scoring, resampling, and access by an explanation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

import medcam
from medcam.engine.request import requested_shape
from medcam.errors import InputError
from medcam.maps import AttentionMap, LayerGrid, ResolvedTarget, place, resample
from support.nets import Classifier, image

TARGET = ResolvedTarget("class 1", "classification")


def attention_map(values, **kwargs):
    return AttentionMap(torch.as_tensor(values).double(), "gcam", "layer4", TARGET, **kwargs)


# -------------------------------------------------------------------------------------- display


def test_positive_maps_go_from_0_to_1_each_by_itself():
    values = torch.rand(3, 2, 4, 5).double() * torch.tensor(
        [1, 1e-200, 1e200], dtype=torch.float64
    ).reshape(3, 1, 1, 1)
    shown = attention_map(values + values.amax((2, 3), True)).normalized()
    for i in range(3):
        for t in range(2):
            v = values[i, t]
            expected = (v - v.min()) / (v.max() - v.min())
            torch.testing.assert_close(shown[i, t], expected, rtol=0, atol=1e-14)


def test_signed_maps_are_symmetric_about_0():
    values = torch.tensor([[[[-4.0, 0], [1, 2]]], [[[0.5, 0], [0.25, -0.125]]]])
    expected = torch.tensor([[[[-1, 0], [0.25, 0.5]]], [[[1, 0], [0.5, -0.25]]]])
    assert torch.equal(attention_map(values, signed=True).normalized(), expected.double())


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_sample_is_blank_and_the_others_are_not(value):
    values = torch.stack([torch.full((1, 2, 2), value), torch.tensor([[[0.0, 1], [2, 4]]])])
    shown = attention_map(values).normalized()
    assert not shown[0].any()
    assert torch.equal(shown[1], values[1].double() / 4)


def test_what_is_scored_against_a_mask():
    values = torch.tensor([[[[-4.0, 0], [1, 2]]]]).double()
    assert torch.equal(attention_map(values).attention(), values)
    assert torch.equal(attention_map(values, signed=True).attention(), values.abs())
    part = attention_map(values, signed=True, positive_part=True).attention()
    assert torch.equal(part, values.relu())
    np.testing.assert_array_equal(attention_map(values).numpy(), values.numpy())


# ----------------------------------------------------------------------------------------- size


def matrix(old, new):
    """Resample one axis: area means if it shrinks, else linear between the centres of cells."""
    rows = torch.zeros(new, old).double()
    for i in range(new):
        if new <= old:
            low, high = i * old // new, -(-(i + 1) * old // new)
            rows[i, low:high] = 1 / (high - low)
        else:
            at = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
            low = int(at)
            rows[i, low] += 1 - (at - low)
            rows[i, min(low + 1, old - 1)] += at - low
    return rows


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((4, 5), (4, 5)),
        ((3, 4), (12, 12)),
        ((7, 5), (16, 33)),
        ((8, 9), (4, 3)),
        ((7, 5), (3, 2)),
        ((4, 9), (8, 3)),
        ((1, 1), (3, 5)),
        ((2, 3, 4), (5, 6, 7)),
        ((5, 6, 7), (10, 2, 7)),
    ],
)
def test_resample(old, new):
    values = torch.rand(2, 3, *old).double()
    axes = "uvw"[: len(old)]
    terms = [f"{axis.upper()}{axis}" for axis in axes]
    expected = torch.einsum(
        f"bt{axes},{','.join(terms)}->bt{axes.upper()}",
        values,
        *[matrix(a, b) for a, b in zip(old, new, strict=True)],
    )
    torch.testing.assert_close(resample(values, new), expected, rtol=0, atol=1e-14)


def test_maps_come_at_the_size_asked_for():
    net, x = Classifier(3).double().eval(), image(3, size=8).double()
    ask = {"method": "hirescam", "layer": "features", "target": 1}
    own = medcam.explain(net, x, shape=None, **ask).map.values
    assert own.shape == (2, 1, 4, 4, 4)
    for shape, space in (("input", (8, 8, 8)), ((5, 6, 2), (5, 6, 2)), ([8, 4, 16], (8, 4, 16))):
        found = medcam.explain(net, x, shape=shape, placement="resize", **ask).map.values
        assert torch.equal(found, resample(own, space))


def sampled(own, space, shape, step):
    """Return maps sampled by SciPy at the centres of the voxels of a shape on the input."""
    lines = [
        ((np.arange(n) + 0.5) * extent / n - 0.5) / step
        for n, extent in zip(shape, space, strict=True)
    ]
    at = np.meshgrid(*lines, indexing="ij")
    maps = [ndimage.map_coordinates(m, at, order=1, mode="nearest") for m in own.flatten(0, 1)]
    return torch.from_numpy(np.stack(maps)).unflatten(0, own.shape[:2])


@pytest.mark.parametrize("shape", ["input", (16, 12, 8), (5, 6, 8)])
def test_maps_lie_where_the_features_are(shape):
    """The features of a convolution of kernel 3, stride 2 and padding 1 are at the voxels 2i."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv3d(1, 4, 3, 2, 1), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
    net, x = nn.Sequential(features, head).double().eval(), image(3, size=8).double()
    ask = {"method": "hirescam", "layer": "0", "target": 1}
    own = medcam.explain(net, x, shape=None, **ask).map
    assert own.grid == LayerGrid((0.0,) * 3, (2.0,) * 3)
    assert own.on_layer
    found = medcam.explain(net, x, shape=shape, **ask).map
    size = (8, 8, 8) if shape == "input" else shape
    assert found.grid == own.grid
    assert not found.on_layer
    torch.testing.assert_close(
        found.values, sampled(own.values, (8, 8, 8), size, 2.0), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(own.at(size), found.values, rtol=0, atol=0)


def test_an_axis_that_shrinks_below_the_layer_is_averaged():
    values = torch.rand(2, 1, 12, 9).double()
    grid = LayerGrid((0.0, 0.0), (1.0, 1.0))
    expected = values.unfold(2, 3, 3).unfold(3, 3, 3).mean((4, 5))
    found = place(values, grid, (12, 9), (4, 3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_placing_keeps_constants_exactly_and_mirrors_where_the_step_is_negative():
    flat = torch.full((1, 1, 5, 7), 0.1)
    placed = place(flat, LayerGrid((1.3, -2.0), (3.1, 2.7)), (16, 20), (16, 20))
    assert bool((placed == flat.flatten()[0]).all())
    line = torch.arange(4.0)[None, None]
    assert place(line, LayerGrid((3.0,), (-1.0,)), (4,), (4,)).flatten().tolist() == [3, 2, 1, 0]


def test_the_affine_of_a_layer_s_own_map_places_its_cells():
    oblique = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 2], [0, 0, 0, 1.0]])
    grid = LayerGrid((1.5, 0.0, -2.0), (4.0, 2.0, 1.0))
    cell = np.array([3, 1, 2, 1.0])
    voxel = np.array([1.5 + 4 * 3, 2.0, 0.0, 1.0])
    np.testing.assert_allclose(grid.affine(oblique) @ cell, oblique @ voxel)


def test_the_channels_of_an_input_map_follow_its_size():
    net, x = Classifier(channels=2).double().eval(), image(channels=2).double()
    whole = medcam.explain(net, x, method="gbp", target=1).map
    small = medcam.explain(net, x, method="gbp", target=1, shape=(6, 4)).map
    assert torch.equal(small.values, resample(whole.values, (6, 4)))
    for channel in range(2):
        resized = resample(whole.channels[:, :, channel], (6, 4))
        torch.testing.assert_close(small.channels[:, :, channel], resized, rtol=0, atol=1e-15)


@pytest.mark.usefixtures("unchecked")
def test_requested_shapes():
    for shape in ("input", "default"):
        assert requested_shape(shape, (4, 5)) == (4, 5)
    assert requested_shape(None, (4, 5)) is None
    assert requested_shape([3, 2], (4, 5)) == (3, 2)


# ---------------------------------------------------------------------------------- explanation


def test_one_map_or_several():
    net, x = Classifier().eval(), image()
    layers = ["features.0", "features.3"]
    one = medcam.explain(net, x, layer="features")
    assert (one.layer, list(one.maps)) == ("features", ["features"])
    assert one.map is one.maps["features"]
    assert list(medcam.explain(net, x, method=["gcam"], layer="features").maps) == [
        ("gcam", "features")
    ]
    both = medcam.explain(net, x, layer=layers)
    assert both.layer == tuple(layers)
    with pytest.raises(InputError, match=r"2 maps.*maps\[key\].*'features.0'"):
        _ = both.map
    blind = medcam.explain(net, x, method="saliency")
    assert (blind.layer, blind.map.layer, list(blind.maps)) == (None, None, [None])


def test_explanations_and_maps_cannot_be_changed():
    found = medcam.explain(Classifier().eval(), image(), layer="features")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.map.layer = "other"
    with pytest.raises(TypeError):
        found.maps["features"] = None
    assert (
        repr(found.map)
        == "AttentionMap(gcam of layer 'features', [2, 1, 12, 12], the predicted class)"
    )


def test_the_map_of_one_sample_and_one_target():
    classes, voxels = torch.arange(6).reshape(2, 3), torch.arange(6, 12).reshape(2, 3)
    target = ResolvedTarget("every class", "segmentation", classes, voxels)
    item = AttentionMap(
        torch.arange(24.0).reshape(2, 3, 4), "saliency", None, target,
        channels=torch.arange(48.0).reshape(2, 3, 2, 4),
    )  # fmt: skip
    single = item.single(1, 2)
    assert single.values.tolist() == [[[20.0, 21.0, 22.0, 23.0]]]
    assert single.channels[0, 0, 1].tolist() == [44.0, 45.0, 46.0, 47.0]
    assert (single.target.classes.tolist(), single.target.voxels.tolist()) == ([[5]], [[11]])
    assert single.target.description == "every class"
