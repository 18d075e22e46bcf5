"""The part of a page that says whether its maps can be trusted."""

from __future__ import annotations

import numpy as np
import pytest

from medcam.explanation.case import reading
from medcam.trust.plan import Plan
from medcam.trust.result import CheckedMap, TrustCheck
from medcam.trust.stages import LayerShare
from medcam.trust.statistics import Estimate
from medcam.trust.verdict import CRITERIA, Verdict
from medcam.views.report.page import render_report
from medcam.views.report.trust import trust_section
from medcam.views.scene.values import Scene

HOSTILE = "<script>alert(1)</script>"


def check(word="passes", title="Grad-CAM", reason="No map is recommended."):
    verdicts = {
        key: Verdict(key, word, Estimate(0.5, 0.4, 0.6), "below 0.9", f"{title} of {key}.")
        for key in CRITERIA
    }
    return TrustCheck(
        "class 1", (CheckedMap("gcam", title, "layer", verdicts),), {},
        (LayerShare("l", 0.97, 0.96),), None, reason, Plan(8, 2, 1, 0, 1, 1, 1), 0, (4, 4),
    ).to_dict()  # fmt: skip


def page(record, **options):
    return render_report(Scene("case", np.zeros((6, 5)), check=record, **options))


def test_names_and_sentences_are_escaped():
    text = page(check(title=HOSTILE, reason=HOSTILE))
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("word", ["passes", "fails", "no better than the image", "undecided"])
def test_verdicts_have_a_sign_and_those_against_the_map_are_marked(word):
    text = page(check(word))
    assert f" {word}</td>" in text
    assert ("<td data-bad" in text) == (word in ("fails", "no better than the image"))


def test_a_map_of_a_layer_that_is_not_used_says_so_beside_its_verdict():
    record = check()
    beside = "passes</strong> <small>but the prediction hardly uses this layer</small>"
    assert beside not in page(record)
    record["maps"][0]["layer_is_used"] = False
    assert beside in page(record)
    del record["maps"][0]["layer_is_used"]  # of an older version
    assert beside not in page(record)


def test_what_the_checks_cannot_show_and_the_layers_are_told():
    text = page(check())
    assert "cannot show" in text
    assert "Dice coefficient with the prediction is 0.96" in text
    assert "hardly uses this layer" in text
    assert "Necessary, not sufficient" in text


def test_a_page_of_a_signal_has_it_too():
    scene = Scene("case", np.zeros((2, 50)), is_signal=True, check=check())
    assert "Can the maps be trusted?" in render_report(scene)


def test_without_a_check_there_is_no_section():
    assert "trusted?" not in page({})
    assert trust_section({}) is None


@pytest.mark.parametrize(
    "record",
    [
        [1], "x", {"maps": 3}, {"maps": [3]}, {"maps": [{"criteria": {}}]},
        {**check(), "layers": [{"layer": "a", "score_without": "b"}]},
        {**check(), "recommended": 1},
        {**check(), "maps": [{"criteria": {"T0": {}}, "title": "a", "layer": None, "verdict": 0}]},
    ],
)  # fmt: skip
def test_a_damaged_record_is_an_error_that_reading_expects(record):
    with pytest.raises((TypeError, ValueError)):
        reading._check_of(record)
