"""A planted marker is the only reason of a taught network, so which map is right is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import medcam
from medcam import demo
from medcam.evaluation.ranking import auroc
from medcam.trust.artefact import marker_place, with_marker

from .conftest import checked

FEW = {"sets": 8, "networks": 0, "noises": 0}


@pytest.fixture(scope="module")
def planted(lesions):
    model = demo.load_lesion_classifier()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check = checked(model, lesions, target=1, layer=["relu4", "relu6"], artefact=True, **FEW)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    return check.artefact


@pytest.mark.parametrize("method", ["gcam", "gcampp", "hirescam", "layercam", "xgradcam"])
def test_the_marker_is_found_at_the_last_layer(method, planted):
    assert planted.accuracy == 1
    verdict = planted.maps[method, "relu6"]
    assert verdict.word == "finds the marker"
    assert verdict.area > 0.95
    assert verdict.before < 0.8


def test_grad_cam_misses_it_where_it_is_not_faithful(planted):
    """As at the lesion, see tests/trust/test_discrimination.py."""
    assert planted.maps["gcam", "relu4"].word == "misses the marker"
    assert planted.maps["hirescam", "relu4"].word == "finds the marker"


def test_a_map_of_what_is_bright_marks_it_in_any_case(planted):
    assert planted.maps["eigencam", "relu4"].word == "marks it in any case"
    assert "did not learn" in planted.maps["eigencam", "relu4"].sentence


def test_it_is_in_the_record_and_the_text(lesions):
    check = checked(demo.load_lesion_classifier(), lesions[:2], method="gcam", layer="relu6",
                    artefact=True, **FEW)  # fmt: skip
    assert check.to_dict()["artefact"]["maps"][0]["method"] == "gcam"
    assert "Planted marker" in str(check)


def test_a_network_that_cannot_learn_it_says_so():
    class Blind(nn.Module):
        """Its classes depend on the mean of the middle of the image."""

        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return self.features(x[..., 12:20, 12:20]).mean((2, 3))

    check = checked(Blind(), torch.rand(2, 1, 32, 32), method="saliency", artefact=True, **FEW)
    assert not check.artefact.maps
    assert check.artefact.steps == 400
    assert "did not learn" in str(check)


def test_refusals():
    model, images = demo.load_nuclei_segmenter(), demo.load_nuclei().images[:1]
    with pytest.raises(medcam.errors.InputError, match="classification"):
        checked(model, images, method="saliency", artefact=True, **FEW)
    with pytest.raises(medcam.errors.InputError, match="whole images"):
        checked(model, images, method="saliency", artefact=True, roi_size=64, **FEW)


@pytest.mark.parametrize(("space", "cells", "side"), [
    ((64, 64), [], 8), ((64, 64), [(16.0, 16.0)], 16), ((40, 48, 32), [(2.0, 2.0, 2.0)], 4),
    ((9, 9), [(8.0, 8.0)], 4),
])  # fmt: skip
def test_the_marker_is_a_box_inside_the_image_no_smaller_than_a_cell(space, cells, side):
    places = [marker_place(space, cells, seed=seed) for seed in range(8)]
    assert {int(place.sum()) for place in places} == {side ** len(space)}
    assert len({tuple(place.flatten().tolist()) for place in places}) > 1


def test_the_marker_holds_the_extreme_values():
    images = torch.randn(2, 3, 32, 32)
    where = marker_place((32, 32), [])
    marked = with_marker(images, where)
    assert torch.equal(marked[:, :, ~where], images[:, :, ~where])
    for image, other in zip(images, marked, strict=True):
        for channel in range(3):
            values = other[channel][where].unique().tolist()
            assert values == [float(image[channel].min()), float(image[channel].max())]


def test_the_area_under_the_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(5):
        values = rng.integers(0, 6, (12, 12)).astype(float)
        where = rng.random((12, 12)) < 0.2
        assert auroc(values, where) == pytest.approx(roc_auc_score(where.ravel(), values.ravel()))
