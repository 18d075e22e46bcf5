"""The metrics on cases small enough for paper, and every row of the table of edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medcam.errors import InputError
from medcam.evaluation import METRICS
from medcam.evaluation.metrics import Options
from medcam.evaluation.ranking import top_k

# â = [[0, .25, .5], [.75, 1, 0]]; at τ = .5, B is the .5, the .75 and the 1.
MAP = np.array([[2.0, 3.0, 4.0], [5.0, 6.0, 2.0]])
MASK = np.array([[0, 0, 1], [0, 1, 1]], dtype=bool)
HALF = Options(threshold=0.5, spacing=(2.0, 1.0))

BY_HAND = {
    "wioa": 1.5 / 2.25,
    "ioa": 2 / 3,
    "iou": 2 / 4,
    "wiou": (0.5 + 1 + 0) / (0 + 0.25 + 1 + 0.75 + 1 + 1),
    "dice": 2 * 2 / (3 + 3),
    "pointing_game": 1.0,
    "relevance_mass": (4 + 6 + 2) / 22,
    "relevance_rank": 2 / 3,  # 6 and 4 of 6, 5, 4
    # inside 4, 6, 2; outside 2, 3, 5: wins 2 + 3 + 0, and a tie
    "auroc": (2 + 3 + 0.5) / 9,
    # 6 (hit), 5, 4 (hit), 3, 2 and 2 (one hit): recall rises by thirds
    "average_precision": (1 / 1 + 2 / 3 + 3 / 6) / 3,
    # every voxel is at an edge. B = (0,2) (1,0) (1,1); M = (0,2) (1,1) (1,2). (1,0) to M: 1 mm;
    # (1,2) to B: 1 mm by (1,1); percentile of 0, 0, 1 at .95 · 2 = 1.9
    "hd95": 0.9,
    "assd": 2 / 6,
    # centres: rows 2/3 both; columns 3/3 and 5/3
    "centroid_distance": 2 / 3,
}


@pytest.mark.parametrize("name", METRICS)
def test_two_by_three(name):
    assert METRICS[name].score(MAP, MASK, HALF) == pytest.approx(BY_HAND[name], rel=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", METRICS)
def test_a_volume_of_depth_one_scores_as_the_image(name, axis):
    spacing = [2.0, 1.0]
    spacing.insert(axis, 7.0)
    options = Options(threshold=0.5, spacing=tuple(spacing))
    volume, mask = np.expand_dims(MAP, axis), np.expand_dims(MASK, axis)
    assert METRICS[name].score(volume, mask, options) == pytest.approx(BY_HAND[name], rel=1e-12)


def test_distances_of_two_blocks_in_mm():
    """Two 3×3×3 blocks, 4 voxels of 2.5 mm apart along the first axis."""
    attention, mask = np.zeros((9, 5, 5)), np.zeros((9, 5, 5), bool)
    attention[1:4, 1:4, 1:4] = 1.0
    mask[5:8, 1:4, 1:4] = True
    options = Options(spacing=(2.5, 1.0, 1.0))
    assert METRICS["centroid_distance"].score(attention, mask, options) == 10.0
    assert METRICS["hd95"].score(attention, mask, options) == 10.0  # the far face is 9 of 26
    # edge voxels of a block: 9 at 4 voxels, 8 at 3 (the core is none), 9 at 2; both ways the same
    assert METRICS["assd"].score(attention, mask, options) == pytest.approx(
        2.5 * (9 * 4 + 8 * 3 + 9 * 2) / 26
    )


def test_hd95_takes_the_worse_direction():
    """B is one end of a line of 41 voxels, M the line, whose edge is its two ends; and reversed."""
    end, line = np.zeros((1, 42)), np.zeros((1, 42))
    end[0, 0], line[0, :41] = 1.0, 1.0
    worse = 0.95 * 40  # the 95th percentile of 0 and 40; the other way it is 0
    assert METRICS["hd95"].score(end, line > 0, Options()) == pytest.approx(worse)
    assert METRICS["hd95"].score(line, end > 0, Options()) == pytest.approx(worse)


def test_pointing_game_tolerance_is_in_mm_and_reaches_its_bound():
    attention, mask = np.zeros((1, 9)), np.zeros((1, 9), bool)
    attention[0, 6], mask[0, 3] = 1.0, True
    play = METRICS["pointing_game"]
    for spacing, tolerance, score in (
        ((1.0, 1.0), 0.0, 0.0),
        ((1.0, 1.0), 2.9, 0.0),
        ((1.0, 1.0), 3.0, 1.0),
        ((1.0, 0.1), 0.3, 1.0),  # in floating point, 3 · 0.1 > 0.3
        ((9.0, 0.1), 0.29, 0.0),
    ):
        options = Options(spacing=spacing, tolerance_mm=tolerance)
        assert play.score(attention, mask, options) == score


def test_tied_maxima_count_by_their_share():
    attention = np.array([[5.0, 5.0, 5.0, 1.0]])
    mask = np.array([[1, 0, 0, 0]], dtype=bool)
    assert METRICS["pointing_game"].score(attention, mask, Options()) == pytest.approx(1 / 3)
    assert METRICS["relevance_rank"].score(attention, mask, Options()) == pytest.approx(1 / 3)
    assert top_k(attention, mask, k=2) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("k", "share"), [(1, 1.0), (2, 0.5), (3, 2 / 3), (4, 0.5), (6, 0.5)])
def test_top_k(k, share):
    assert top_k(MAP, MASK, k=k) == pytest.approx(share)


@pytest.mark.parametrize("k", [0, -1, 7])
def test_top_k_refuses_what_is_not_there(k):
    with pytest.raises(InputError, match=rf"k is {k}: give a number from 1 to 6"):
        top_k(MAP, MASK, k=k)


NAN = math.nan
SHARE = MASK.mean()
CONSTANT_MAP = {
    "wioa": NAN,
    "ioa": NAN,
    "iou": 0.0,
    "wiou": 0.0,
    "dice": 0.0,
    "pointing_game": NAN,
    "relevance_mass": NAN,
    "relevance_rank": NAN,
    "auroc": 0.5,
    "average_precision": SHARE,
    "hd95": NAN,
    "assd": NAN,
    "centroid_distance": NAN,
}
THRESHOLDS = ["otsu", 0.0, 0.5, 1.0]


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("name", METRICS)
def test_an_empty_mask_is_nan(name, threshold):
    options = Options(threshold=threshold, tolerance_mm=2.0)
    assert math.isnan(METRICS[name].score(MAP, np.zeros_like(MASK), options))


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 7.0])
@pytest.mark.parametrize("name", METRICS)
def test_a_constant_map(name, value, threshold):
    options = Options(threshold=threshold, tolerance_mm=2.0)
    score = METRICS[name].score(np.full(MAP.shape, value), MASK, options)
    assert score == pytest.approx(CONSTANT_MAP[name], nan_ok=True)


@pytest.mark.parametrize("name", METRICS)
def test_constant_map_and_empty_mask_are_nan(name):
    assert math.isnan(METRICS[name].score(np.ones((2, 2)), np.zeros((2, 2), bool), Options()))


def test_a_mask_that_fills_the_image_has_nothing_to_rank_against():
    scores = {
        name: METRICS[name].score(MAP, np.ones_like(MASK), Options(threshold=0.5))
        for name in METRICS
        if METRICS[name].unit == ""
    }
    assert math.isnan(scores.pop("auroc"))
    full = dict.fromkeys(scores, 1.0) | {"iou": 3 / 6, "dice": 6 / 9, "wiou": 2.5 / 6}
    assert scores == pytest.approx(full)


def test_top_k_of_an_empty_mask_or_constant_map_is_nan():
    assert math.isnan(top_k(MAP, np.zeros_like(MASK), k=2))
    assert math.isnan(top_k(np.ones(MAP.shape), MASK, k=2))


def test_the_registry_says_what_each_metric_is():
    assert list(METRICS) == list(BY_HAND)
    in_mm = {"hd95", "assd", "centroid_distance"}
    cut = in_mm | {"wioa", "ioa", "iou", "dice"}
    for name, metric in METRICS.items():
        assert metric.function.__name__ == name
        assert metric.unit == ("mm" if name in in_mm else "")
        assert metric.higher_is_better is (name not in in_mm)
        assert metric.thresholded is (name in cut)
