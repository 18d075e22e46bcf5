"""Agreement of maps over folds, mirrorings, noise and methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import medcam
from medcam import demo


@pytest.fixture
def images():
    slices = demo.load_lesion_slices()
    return slices.images[slices.labels == 1][:2]


def network(seed=0, channels=1):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    ).eval()  # fmt: skip


def test_mean_and_spread_are_those_of_scaled_maps():
    folds, x = [network(0), network(1), network(2)], torch.rand(2, 1, 12, 12)
    found = medcam.agreement(folds, x, method="hirescam", layer="1", target=1)
    values = [
        medcam.explain(fold, x, method="hirescam", layer="1", target=1).map.values for fold in folds
    ]
    scaled = np.stack([v / v.abs().mean((2, 3), keepdim=True) for v in values])
    assert list(found.maps) == [f"fold {n}, hirescam" for n in range(3)]
    assert found.mean.values.numpy() == pytest.approx(scaled.mean(0), abs=1e-6)
    assert found.spread.values.numpy() == pytest.approx(scaled.std(0), abs=1e-6)
    assert found.mean.signed
    assert not found.spread.signed
    first, second = values[0][0].flatten(), values[1][0].flatten()
    of_pair = [
        spearmanr(a.flatten(), b.flatten()).statistic
        for a, b in zip(values[0], values[1], strict=True)
    ]
    assert found.pairs["fold 0, hirescam", "fold 1, hirescam"] == pytest.approx(np.mean(of_pair))
    assert len(found.pairs) == 3
    assert first.shape == second.shape


def test_mirrored_maps_are_mirrored_back(images):
    """A network that sees an image and its mirror image alike has the same map of both."""

    class Symmetric(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(1, 3, 3, padding=1)
            weight = self.inner.weight.data
            self.inner.weight.data = (weight + weight.flip(-1)) / 2

        def forward(self, x):
            return self.inner(x).relu().mean((2, 3))

    found = medcam.agreement(Symmetric(), images, method="saliency", target=1, mirror_axes=[1])
    assert list(found.maps) == ["fold 0, saliency", "fold 0, mirrored 1, saliency"]
    assert found.correlation == pytest.approx([1, 1], abs=1e-3)
    assert found.spread.values.max() < 1e-4
    other = medcam.agreement(Symmetric(), images, method="saliency", target=1, mirror_axes=[0])
    assert other.spread.values.max() > 1e-2


def test_noise_is_a_share_of_the_deviation_and_repeats(images):
    model = demo.load_lesion_classifier()
    options = {"method": ["gcam", "gbp"], "layer": "relu6", "target": 1}
    weak = medcam.agreement(model, images, noises=2, noise=0.01, **options)
    strong = medcam.agreement(model, images, noises=2, noise=0.3, **options)
    assert len(weak.maps) == 6

    def between(found, method):
        return found.pairs[f"fold 0, {method}", f"fold 0, noise 1, {method}"]

    assert between(weak, "gcam") > between(strong, "gcam")
    assert between(weak, "gcam") > between(weak, "gbp")
    again = medcam.agreement(model, images, noises=2, noise=0.01, **options)
    assert torch.equal(again.spread.values, weak.spread.values)


@pytest.mark.parametrize(
    ("options", "begin"),
    [
        (
            {"noises": 4, "mirror_axes": [0, 1]},
            (
                "20 maps: 1 network x 4 orientations (1 unmirrored, 3 mirrored) x 5 copies of each "
                "image (1 unchanged, 4 noisy); mean rank correlation of each sample: "
            ),
        ),
        ({"method": ["saliency", "gcam"], "layer": "1"}, "2 maps: 1 network x 2 methods; mean "),
        (
            {"folds": 3, "noises": 1},
            "6 maps: 3 networks x 2 copies of each image (1 unchanged, 1 noisy); mean ",
        ),
        ({"folds": 2}, "2 maps: 2 networks; mean "),
    ],
)
def test_how_the_number_of_maps_comes_about_is_said(options, begin):
    folds = [network(seed) for seed in range(options.pop("folds", 1))]
    options = {"method": "saliency", "target": 1, **options}
    said = str(medcam.agreement(folds, torch.rand(2, 1, 12, 12), **options))
    assert said.startswith(begin)


def test_importance_of_modalities():
    model, x = network(channels=3), torch.rand(2, 3, 12, 12)
    model[0].weight.data[:, 1] *= 100
    found = medcam.agreement(model, x, method="saliency", target=1, noises=1)
    assert found.importance.shape == (2, 3)
    assert found.importance.sum(1) == pytest.approx([1, 1])
    assert (found.importance.argmax(1) == 1).all()
    assert found.importance[:, 1].min() > 0.9
    layer = medcam.agreement(model, x, method="gcam", layer="1", target=1, noises=1)
    assert layer.importance is None


def test_nothing_of_the_model_changes(images):
    model = demo.load_lesion_classifier().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rng = torch.get_rng_state()
    medcam.agreement(model, images, target=1, noises=1, mirror_axes=[0, 1])
    assert model.training
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one map only"),
        ({"mirror_axes": [2]}, "0 to 1"),
        ({"noises": 1, "layer": ["relu4", "relu6"]}, "one layer"),
    ],
)
def test_refusals(options, message, images):
    with pytest.raises(medcam.errors.InputError, match=message):
        medcam.agreement(demo.load_lesion_classifier(), images, target=1, **options)
    with pytest.raises(medcam.errors.InputError, match="empty"):
        medcam.agreement([], images)
