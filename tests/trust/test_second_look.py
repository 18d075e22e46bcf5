"""What a review of the check found wrong; each was seen to fail."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam import demo, targets
from medcam.trust import criteria
from medcam.trust.plan import Plan, within
from medcam.trust.question import question_of

from .conftest import checked

FEW = {"sets": 8, "networks": 0, "noises": 0}


def three_classes():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        nn.Conv2d(6, 3, 1),
    ).eval()  # fmt: skip


def test_another_class_is_no_second_part():
    """Its map belongs to T3, and not to the score of the second component."""
    logits = torch.zeros(1, 3, 20, 20)
    logits[:, 1, 2:8, 2:8] = logits[:, 1, 12:17, 12:17] = logits[:, 2, 2:6, 14:18] = 1
    assert len(question_of(logits, 1).scores) == 2
    assert len(question_of(logits, 1, against=2).scores) == 1


def test_a_component_of_one_voxel_has_no_halves():
    logits = torch.zeros(1, 3, 20, 20)
    logits[:, 1, 5, 5] = 1
    question = question_of(logits, 1)
    assert [score(logits).tolist() for score in question.scores] == [[1.0]]


@pytest.mark.parametrize("options", [{}, {"roi_size": 16, "overlap": 0.5}], ids=str)
def test_the_logits_are_no_stage(options):
    check = checked(three_classes(), torch.rand(1, 1, 32, 32), method="gcam", **options, **FEW)
    assert [share.layer for share in check.layers] == ["3"]


def test_a_blank_map_costs_no_record():
    """Its relative change is infinite, which JSON cannot hold."""
    verdict = criteria.repeats(math.inf)
    assert verdict.to_dict()["value"] is None
    check = checked(
        demo.load_lesion_classifier(), demo.load_lesion_slices().images[:2], method="gcam",
        layer="relu6", maps={"blank": lambda m, x, t: torch.zeros_like(x[:, 0])}, sets=8,
        networks=1, noises=1,
    )  # fmt: skip
    json.dumps(check.to_dict(), allow_nan=False)
    blank = check.of("blank")
    assert blank.word == "fails"
    assert "one value everywhere" in blank.verdicts["T0"].sentence
    assert "one value everywhere" in blank.verdicts["T3"].sentence


def test_maps_that_are_not_finite_are_refused():
    with pytest.raises(medcam.errors.InputError, match="NaN"):
        checked(
            three_classes(), torch.rand(1, 1, 16, 16), method="gcam",
            maps={"nan": lambda m, x, t: torch.full_like(x[:, 0], math.nan)}, **FEW,
        )  # fmt: skip


def test_a_budget_without_networks():
    cut = within(Plan(96, 2, 0, 0, 1, 1, 1), 150)
    assert cut.networks == 0
    assert "T2" not in cut.cut
    assert within(Plan(12, 2, 5, 8, 1, 1, 1), 60).sets >= 8


def test_blank_maps_of_all_permuted_networks_are_undecided():
    assert criteria.knows_weights(np.zeros(5), 0.2).word == "undecided"
    assert criteria.knows_weights(np.array([0.0, 0.1, 0.2]), 0.2).word == "passes"


def test_mirrored_images_do_not_share_a_place():
    mask = torch.zeros(1, 16, 16)
    mask[0, :4, :4] = 1
    with pytest.raises(medcam.errors.InputError, match="place"):
        medcam.agreement(
            three_classes(), torch.rand(1, 1, 16, 16), method="saliency", mirror_axes=[0],
            target=targets.region(mask, 1),
        )  # fmt: skip


def test_against_is_one_class_of_a_classification():
    model, images = demo.load_lesion_classifier(), demo.load_lesion_slices().images[:2]
    with pytest.raises(medcam.errors.InputError, match="against="):
        checked(model, images, method="gcam", layer="relu6", against="all", **FEW)


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ({"mirror_axes": [0]}, torch.rand(1, 1, 16, 16), "roi_size"),
        ({"mirror_axes": [2], "roi_size": 8}, torch.rand(1, 1, 16, 16), "0 to 1"),
        ({"roi_size": 8, "mask": 1}, torch.rand(1, 1, 16, 16), "only input"),
        ({"spacing": (1, 1, 1)}, torch.rand(1, 1, 16, 16), "spacing"),
        ({"spacing": (1, 0)}, torch.rand(1, 1, 16, 16), "spacing"),
        ({}, torch.randint(0, 9, (1, 1, 16, 16)), "floating-point"),
    ],
)
def test_what_would_have_no_effect_or_fail_late_is_refused(options, inputs, message):
    with pytest.raises(medcam.MedcamError, match=message):
        checked(three_classes(), inputs, method="gcam", **options, **FEW)


def test_a_volume_of_integers_in_windows():
    volume = torch.randint(-100, 100, (1, 1, 24, 24), dtype=torch.int16)
    check = checked(three_classes(), volume, method="gcam", roi_size=16, **FEW)
    assert check.of("gcam").verdicts["T1"].word == "passes"


def test_under_inference_mode():
    with torch.inference_mode():
        check = checked(three_classes(), torch.rand(1, 1, 16, 16), method="gcam", **FEW)
    assert check.of("gcam").verdicts["T1"].word == "passes"


def test_a_function_of_a_regression_gets_the_output_as_it_is():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 1),
    ).eval()  # fmt: skip
    seen = set()

    def target(output):
        seen.add(tuple(output.shape))
        return output.reshape(-1)

    checked(model, torch.rand(2, 1, 16, 16), method="gcam", layer="1", target=target, **FEW)
    assert seen == {(2, 1)}


def test_a_marker_that_cannot_be_planted_is_told_before_anything_is_measured():
    ticks = []
    with pytest.raises(medcam.errors.InputError, match="classification"):
        checked(
            three_classes(), torch.rand(1, 1, 16, 16), method="gcam", artefact=True,
            progress=lambda done, total: ticks.append(done), **FEW,
        )  # fmt: skip
    assert not ticks
