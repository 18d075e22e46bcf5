"""A planted marker is the only reason of a taught network, so which map is right is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam import demo
from medcam.trust.artefact import plant
from medcam.trust.marker import marker_place, with_marker
from medcam.trust.question import question_of
from medcam.trust.subject import Maps, WholeImages

from ._fakes import SEVEN, fakes
from .conftest import checked
from .test_held_out_networks import case

FEW = {"sets": 8, "networks": 0, "noises": 0}


@pytest.fixture(scope="module")
def planted(lesions):
    model = demo.load_lesion_classifier()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check = checked(model, lesions, target=1, layer=["relu4", "relu6"], artefact=True,
                    maps=fakes("relu6"), **FEW)  # fmt: skip
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    return check.artefact


@pytest.mark.parametrize("method", ["gcam", "gcampp", "hirescam", "layercam", "xgradcam"])
def test_the_marker_is_found_at_the_last_layer(method, planted):
    assert planted.accuracy == 1
    verdict = planted.maps[method, "relu6"]
    assert verdict.word == "finds the marker"
    assert verdict.boxes_below > 0.95
    assert verdict.share > 0.25 > 0.01 > verdict.before


def test_grad_cam_misses_it_where_it_is_not_faithful(planted):
    """As at the lesion, see tests/trust/test_discrimination.py."""
    verdict = planted.maps["gcam", "relu4"]
    assert verdict.word == "misses the marker"
    assert "one value everywhere" in verdict.sentence
    assert planted.maps["hirescam", "relu4"].word == "finds the marker"


@pytest.mark.parametrize("method", ["inputxgradient", "saliency", "gbp"])
def test_fine_maps_find_it(method, planted):
    """The dark squares are 0, so that input times gradient is 0 there."""
    verdict = planted.maps[method, None]
    assert verdict.word == "finds the marker"
    assert verdict.share > 0.3
    assert verdict.boxes_below > 0.99


def test_a_map_of_what_is_bright_marks_it_in_any_case(planted):
    verdict = planted.maps["eigencam", "relu4"]
    assert verdict.word == "marks it in any case"
    assert f"({verdict.before:.0%} before the network learnt it)" in verdict.sentence


def test_fakes_do_not_find_it(planted):
    words = {name: planted.maps[name, None].word for name in SEVEN if name != "fake other case"}
    assert {words.pop(f"fake {name}") for name in ("edges", "intensity")} == {
        "marks it in any case"
    }
    assert set(words.values()) == {"misses the marker"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_network_that_no_threshold_was_read_off(seed):
    """The untaught network has a share of 11 % in the marker at the last layer, which triples."""
    network, images, _, options = case("classifier")
    methods = ["gcam", "hirescam", "layercam", "inputxgradient"]
    planted = checked(
        network, images, method=methods, layer=["layer1", "layer3"], maps=fakes("layer3"),
        artefact=True, seed=seed, **FEW, **options,
    ).artefact  # fmt: skip
    words = {name: verdict.word for name, verdict in planted.maps.items()}
    finding = {name[0] for name, word in words.items() if word == "finds the marker"}
    assert finding == {*methods, "fake other case"}  # the marker lies at one place in all images
    assert words["fake mirrored", None] == "misses the marker"


def test_it_is_in_the_record_and_the_text(lesions):
    check = checked(demo.load_lesion_classifier(), lesions[:2], method="gcam", layer="relu6",
                    artefact=True, **FEW)  # fmt: skip
    (row,) = check.to_dict()["artefact"]["maps"]
    assert (row["method"], row["title"], row["layer"]) == ("gcam", "Grad-CAM", "relu6")
    assert row["chance"] == 0.0156 < row["share"]
    assert "Planted marker: The marker is 1.6% of the image. A map finds it if" in str(check)
    assert "Grad-CAM (relu6) finds the marker: its box holds" in str(check)


def test_titles_of_methods_that_are_not_registered(lesions):
    subject = WholeImages(demo.load_lesion_classifier().eval(), (lesions[:2],), {}, {})
    question = question_of(subject.logits(1), 1, against=None, parts="auto", regions=False)

    def run(subject, target):
        return Maps({("mine", None): np.ones((2, 64, 64))}, {}, {})

    planted = plant(subject, question, run, [], seed=0, titles={"mine": "My map"})
    assert "My map (input) misses the marker: it has one value everywhere." in str(planted)


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
    ((64, 64), [(32.0, 32.0)], 16), ((9, 9), [(8.0, 8.0)], 2),
])  # fmt: skip
def test_the_marker_is_a_box_inside_the_image_of_a_cell_or_a_quarter_of_the_image(
    space, cells, side
):
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
