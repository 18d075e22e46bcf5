"""Sentences of a check hold for the figures beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medcam.trust import MarkerVerdict, PlantedArtefact, criteria
from medcam.trust.blocks import FILLS
from medcam.trust.controls import IMAGE_CONTROLS
from medcam.trust.faithfulness import Faithfulness, is_faithful
from medcam.trust.recommending import recommend
from medcam.trust.result import CheckedMap
from medcam.trust.stages import LayerShare
from medcam.trust.statistics import Estimate, two_digits
from medcam.trust.verdict import CRITERIA, Verdict


def faithful(value, spread=0.01):
    draws = value + spread * np.linspace(-1, 1, 41)
    return Faithfulness({"mean": value}, {"mean": draws}, spread)


def t4(value, control=0.1, spread=0.01):
    controls = {name: faithful(control, spread) for name in IMAGE_CONTROLS}
    return is_faithful(faithful(value, spread), controls, fills=("mean",))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.3, "more than hiding the rest, but not enough (correlation 0.30"),
        (0.04, "no more than hiding the rest"),
        (-0.06, "no more than hiding the rest"),
        (-0.7, "less than hiding the rest"),
    ],
)
def test_a_failure_of_faithfulness_says_how_hiding_compares(value, words):
    verdict = t4(value)
    assert verdict.word == "fails"
    assert f"lowers the score {words}" in verdict.sentence


@pytest.mark.parametrize(
    ("networks", "unlike", "word", "text"),
    [
        ([0.1, 0.2, 0.15], 0.2, "passes", "The map changes if all that the network learnt"),
        ([0.5, 0.52, 0.51], 0.9, "passes", "The map changes if all that the network learnt"),
        ([0.9, 0.91, 0.92], 0.2, "fails", "hardly changes"),
        ([0.98, 0.99, 0.985], 0.8, "fails", "hardly changes"),
        ([0.84, 0.85, 0.86], 0.8, "does not apply", "maps of unlike images have 0.80"),
        ([0.2, 0.9, 0.7], 0.2, "undecided", "cannot be told"),
        ([0.97, 0.87, 0.92], 0.8, "undecided", "cannot be told"),
        ([0.57, 0.62, 0.6], 0.8, "passes", "the limit is 0.60"),
        ([0.1], 0.2, "undecided", "Too few networks"),
        ([], 0.2, "undecided", "networks=0"),
    ],
)
def test_what_is_said_of_the_weights(networks, unlike, word, text):
    verdict = criteria.knows_weights(np.array(networks), unlike)
    assert verdict.word == word
    assert text in verdict.sentence


def test_the_threshold_of_the_weights_is_the_same_for_every_map():
    texts = {criteria.knows_weights(np.array([0.1, 0.2]), u).threshold for u in (0.1, 0.5, 0.9)}
    assert len(texts) == 1


def test_numbers_have_no_negative_zero():
    assert two_digits(-0.001) == "0.00"
    assert str(Estimate(-0.001, -0.2, math.nan)).startswith("0.00 [-0.20")
    assert " 0.00," in criteria.knows_image(np.array([-0.001, -0.002])).sentence


def row(method="gcam", layer="a", *, gain=0.3, low=None, fails=(), undecided=(), unused=False):
    verdicts = {}
    for key in CRITERIA:
        word = "fails" if key in fails else "undecided" if key in undecided else "passes"
        low = gain - 0.05 if low is None else low
        gains = {"best of the image": Estimate(gain, low, gain + 0.05)} if key == "T4" else None
        verdicts[key] = Verdict(key, word, Estimate(0.8, 0.7, 0.9), "", "", gains)
    return CheckedMap(method, method.title(), layer, verdicts, is_of_unused_layer=unused)


def test_the_recommendation_says_how_many_others_are_as_good():
    alone, _ = recommend([row(), row("b", fails=["T4"])])
    assert alone.sentence.startswith("Use Gcam at layer 'a', the only map that passes every crit")
    clear, _ = recommend([row(), row("b", gain=0.1)])
    assert "of the 2 maps" in clear.sentence
    assert "as good" not in clear.sentence
    near, _ = recommend([row(), row("b", gain=0.28), row("c", gain=0.27), row("d", gain=0.1)])
    assert near.sentence.endswith("2 of the others are about as good.")
    beside, _ = recommend([row(), row("b", unused=True)])
    assert "the only map that passes every criterion at a layer that the prediction uses" in (
        beside.sentence
    )


def test_with_a_planted_marker_a_map_that_finds_it_is_recommended():
    def marker(**words):
        maps = {
            (method, "a"): MarkerVerdict(f"{word} the marker", 0.3, 0.1, 0.02, 1.0)
            for method, word in words.items()
        }
        return PlantedArtefact(maps, 1.0, 9, 4)

    rows = [row(gain=0.4), row("b", gain=0.2)]
    best, _ = recommend(rows, marker(gcam="misses", b="finds"))
    assert best.method == "b"
    assert "passes every criterion and finds the planted marker" in best.sentence
    both, _ = recommend(rows, marker(gcam="finds", b="finds"))
    assert both.method == "gcam"
    assert "maps that pass every criterion and find the planted marker" in both.sentence
    none, _ = recommend(rows, marker(gcam="misses", b="misses"))
    assert none.method == "gcam"
    assert "No map that passes finds the planted marker" in none.sentence
    unlearnt, _ = recommend(rows, PlantedArtefact({}, 0.7, 200, 4))
    assert "marker" not in unlearnt.sentence


def test_why_no_map_is_recommended_counts_every_reason():
    none, reason = recommend(
        [row(fails=["T0", "T4"]), row("b", fails=["T0"]), row("c", undecided=["T4"])]
    )
    assert none is None
    assert reason == (
        "No map is recommended: none of 3 passes every criterion (2 x does not know the image, "
        "1 x is not faithful, 1 x undecided whether it is faithful)."
    )


def test_fills_that_contradict_each_other_are_no_matter_of_more_sets():
    controls = {
        name: Faithfulness(
            {"mean": 0.1, "shifted": 0.1}, {f: np.full(41, 0.1) for f in FILLS}, 0.01
        )
        for name in IMAGE_CONTROLS
    }
    draws = {"mean": np.linspace(0.8, 0.9, 41), "shifted": np.linspace(0.15, 0.25, 41)}
    measured = Faithfulness({"mean": 0.85, "shifted": 0.2}, draws, 0.01)
    verdict = is_faithful(measured, controls, fills=tuple(FILLS))
    assert verdict.word == "undecided"
    assert "more sets do not help" in verdict.sentence
    assert "0.85 [" in verdict.sentence
    assert "0.20 [" in verdict.sentence


def test_a_score_that_hardly_rises_is_not_said_to_rise():
    assert "100% of the score is left" in str(LayerShare("a", 1.003, None))


def test_a_row_says_why_it_fails_or_is_undecided():
    assert row(fails=["T0", "T4"]).why == ": does not know the image, is not faithful"
    assert row(undecided=["T2", "T4"]).why == " whether it knows the weights and is faithful"
    assert row().why == ""


@pytest.mark.parametrize(
    ("score", "dice", "text"),
    [
        (2.0, None, "the layer speaks against the target"),
        (1.5, 0.8, "the layer speaks against the target"),
        (1.1, 0.97, "the prediction stays nearly the same, so it hardly uses this layer"),
        (0.13, 0.98, "the prediction stays nearly the same, so it hardly uses this layer"),
        (0.93, 0.68, "the score stays nearly the same, so the prediction hardly uses this layer"),
        (0.95, None, "the score stays nearly the same, so the prediction hardly uses this layer"),
        (0.3, 0.4, None),
    ],
)
def test_a_layer_that_is_not_used_says_what_stays(score, dice, text):
    share = LayerShare("layer", score, dice)
    assert share.is_used == (text is None)
    for words in (str(share), share.sentence):
        assert ("hardly uses" in words) == (text is not None)
        assert text is None or text in words
