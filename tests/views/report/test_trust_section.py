"""The part of a page that says whether its maps can be trusted."""

from __future__ import annotations

import numpy as np
import pytest

from medcam.explanation.case import reading
from medcam.views.report.page import render_report
from medcam.views.report.trust import trust_section
from medcam.views.scene.values import Scene
from support.checks import check_record, checked_map

HOSTILE = "<script>alert(1)</script>"


def check(word="passes", title="Grad-CAM", **entries):
    return check_record(checked_map(title, word=word), **entries)


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
    record["maps"][0]["verdict"] = "fails"  # no "but": both speak against the map
    assert "fails</strong> <small>the prediction hardly uses this layer</small>" in page(record)
    record["maps"][0]["verdict"] = "passes"
    del record["maps"][0]["layer_is_used"]  # of an older version
    assert beside not in page(record)


def test_what_the_checks_cannot_show_and_the_layers_are_told():
    text = page(check())
    assert "cannot show" in text
    assert "Dice coefficient with the prediction is 0.96" in text
    assert "hardly uses this layer" in text
    assert "Necessary, not sufficient" in text


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"images": 3}, "class 1; 3 images"),
        ({"images": 1}, "class 1; 1 image"),
        ({"target": "class 2: whole", "images": None}, "class 2: whole"),
    ],
)
@pytest.mark.parametrize("is_signal", [False, True])
def test_what_was_checked_stands_above_the_table(entries, said, is_signal):
    record = check(**entries)
    if entries["images"] is None:
        del record["images"]  # of an older version
    text = render_report(Scene("case", np.zeros((2, 50)), is_signal=is_signal, check=record))
    before, table = text.split('<table class="trust">')
    section = before[before.index('id="title-trust"') :]
    assert f'<p class="checked">Checked: {said}.</p>' in section
    assert "<details" not in section
    assert "Checked:" not in table


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
        {**check(), "recommended": {"sentence": "Use it."}},
        {**check(), "images": "3"},
        {**check(), "maps": [{"criteria": {"T0": {}}, "title": "a", "layer": None, "verdict": 0}]},
    ],
)  # fmt: skip
def test_a_damaged_record_is_an_error_that_reading_expects(record):
    with pytest.raises((TypeError, ValueError)):
        reading._section_of(record, "check", trust_section)
