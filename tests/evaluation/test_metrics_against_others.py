"""The metrics against loops written from their definitions, scikit-learn and MONAI."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from medcam.evaluation import METRICS
from medcam.evaluation.metrics import Options
from medcam.evaluation.thresholds import attended_region

from ._peers import monai_assd, monai_dice, monai_hd95, monai_iou
from ._replica import REPLICAS, sample

SPACES = {(5, 7): (0.7, 3.0), (1, 6, 5): (4.0, 0.7, 0.7), (3, 5, 4): (2.5, 0.5, 1.0)}


@pytest.mark.parametrize("threshold", ["otsu", 0.0, 0.4, 1.0])
@pytest.mark.parametrize("kind", ["smooth", "tied"])
@pytest.mark.parametrize("shape", SPACES)
@pytest.mark.parametrize("name", METRICS)
def test_equals_its_loop(name, shape, kind, threshold):
    rng = np.random.default_rng(0)
    for _ in range(2):
        attention, mask = sample(rng, shape, kind=kind)
        options = Options(threshold=threshold, spacing=SPACES[shape], tolerance_mm=1.5)
        expected = REPLICAS[name](
            attention, mask, threshold=threshold, spacing=SPACES[shape], tolerance_mm=1.5
        )
        assert METRICS[name].score(attention, mask, options) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["smooth", "tied"])
@pytest.mark.parametrize("shape", [(40, 30), (9, 16, 11)])
def test_rankings_equal_scikit_learn(shape, kind):
    attention, mask = sample(np.random.default_rng(1), shape, kind=kind)
    flat, inside = attention.ravel(), mask.ravel()
    assert METRICS["auroc"].score(attention, mask, Options()) == pytest.approx(
        roc_auc_score(inside, flat), rel=1e-12
    )
    assert METRICS["average_precision"].score(attention, mask, Options()) == pytest.approx(
        average_precision_score(inside, flat), rel=1e-12
    )


@pytest.mark.parametrize("spacing", [None, "anisotropic"])
@pytest.mark.parametrize("threshold", ["otsu", 0.9])
@pytest.mark.parametrize("shape", [(40, 30), (9, 16, 11)])
def test_overlaps_and_distances_equal_monai(shape, threshold, spacing):
    rng = np.random.default_rng(2)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    centre = np.array(shape) * 0.4
    attention = np.exp(-(((grid - centre) / (np.array(shape) / 5)) ** 2).sum(-1))
    attention += 0.3 * rng.random(shape)
    mask = (((grid - np.array(shape) * 0.6) / (np.array(shape) / 4)) ** 2).sum(-1) < 1
    mask.flat[0] = True  # at the image's corner, too
    sizes = None if spacing is None else (3.0, 0.7, 1.2)[: len(shape)]
    options = Options(threshold=threshold, spacing=sizes)
    _, region = attended_region(attention, threshold)
    assert 1 < region.sum() < mask.size
    for name, expected in {
        "dice": monai_dice(region, mask),
        "iou": monai_iou(region, mask),
        "hd95": monai_hd95(region, mask, sizes),
        "assd": monai_assd(region, mask, sizes),
    }.items():
        got = METRICS[name].score(attention, mask, options)
        assert got == pytest.approx(expected, rel=1e-6), name  # MONAI works in float32


@pytest.mark.parametrize("name", ["wioa", "ioa", "pointing_game", "relevance_mass", "auroc"])
def test_chance_is_the_mean_over_all_ways_to_shuffle_the_map(name):
    _assert_chance(name, np.array([0.0, 1.0, 1.0, 2.5, 4.0, 6.0]), Options(threshold=0.3))


def test_chance_of_the_rank_and_of_the_pointing_game_with_tolerance():
    values = np.array([0.0, 1.0, 1.0, 2.5, 4.0, 6.0])
    _assert_chance("relevance_rank", values, Options())
    near = Options(spacing=(2.0, 1.0), tolerance_mm=1.0)
    _assert_chance("pointing_game", values, near)
    mask = np.array([[1, 0, 0], [0, 0, 0]], dtype=bool)
    assert METRICS["pointing_game"].chance_level(mask, near) == 2 / 6


def _assert_chance(name, values, options):
    mask = np.array([[1, 0, 0], [0, 0, 1]], dtype=bool)
    scores = [
        METRICS[name].score(np.array(order).reshape(2, 3), mask, options)
        for order in permutations(values)
    ]
    assert np.mean(scores) == pytest.approx(METRICS[name].chance_level(mask, options), rel=1e-12)


def test_average_precision_of_a_large_shuffled_map_is_about_its_chance():
    rng = np.random.default_rng(3)
    mask = rng.random((300, 300)) < 0.2
    level = METRICS["average_precision"].chance_level(mask, Options())
    assert level == mask.mean()
    score = METRICS["average_precision"].score(rng.random(mask.shape), mask, Options())
    assert score == pytest.approx(level, rel=0.03)


def test_no_chance_level_where_it_depends_on_the_map():
    without = {name for name, metric in METRICS.items() if metric.chance is None}
    assert without == {"iou", "wiou", "dice", "hd95", "assd", "centroid_distance"}
    mask = np.ones((2, 2), bool)
    assert {METRICS[name].chance_level(mask, Options()) for name in without} == {None}


@pytest.mark.parametrize("name", ["wioa", "pointing_game", "average_precision"])
def test_chance_of_an_empty_mask_is_zero(name):
    options = Options(tolerance_mm=3.0)
    assert METRICS[name].chance_level(np.zeros((2, 2), bool), options) == 0.0
