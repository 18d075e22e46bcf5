"""The statistics against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from medcam.trust.statistics import (
    bootstrap_counts,
    estimate,
    partial_correlation,
    rank_correlation,
)


def residuals(values, sizes):
    design = np.stack([np.ones_like(sizes), sizes], 1)
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def by_regression(sums, drops, sizes):
    a, b = residuals(sums, sizes), residuals(drops, sizes)
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e9])
def test_partial_correlation_is_that_of_residuals(scale):
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 40, 60).astype(float)
    drops = 0.2 * sizes + rng.normal(size=60)
    sums = np.stack([sizes + rng.normal(size=60) + drops, rng.normal(size=60) * 5 + 100]) * scale
    ours = partial_correlation(sums, drops, sizes)[0]
    for row, value in zip(sums, ours, strict=True):
        assert value == pytest.approx(by_regression(row / scale, drops, sizes), abs=1e-7)


def test_bootstrap_samples_are_those_of_repeated_sets():
    rng = np.random.default_rng(1)
    sizes = rng.integers(3, 40, 24).astype(float)
    drops, sums = rng.normal(size=24) + sizes, rng.normal(size=(1, 24))
    counts = bootstrap_counts(24, 5)
    ours = partial_correlation(sums, drops, sizes, counts)[:, 0]
    for row, value in zip(counts, ours, strict=True):
        index = np.repeat(np.arange(24), row)
        expected = by_regression(sums[0, index], drops[index], sizes[index])
        assert value == pytest.approx(expected, abs=1e-9)


def test_a_sum_that_is_the_size_alone_has_no_partial_correlation():
    rng = np.random.default_rng(2)
    sizes = rng.integers(3, 40, 50).astype(float)
    drops = sizes + rng.normal(size=50)
    assert np.corrcoef(sizes, drops)[0, 1] > 0.9
    assert partial_correlation(3 * sizes[None] + 1e6, drops, sizes)[0, 0] == 0
    assert partial_correlation(np.zeros((1, 50)), drops, sizes)[0, 0] == 0


def test_sets_of_one_size():
    rng = np.random.default_rng(3)
    sums, drops = rng.normal(size=(1, 30)), rng.normal(size=30)
    ours = partial_correlation(sums, drops, np.full(30, 5.0))[0, 0]
    assert ours == pytest.approx(np.corrcoef(sums[0], drops)[0, 1])


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 9, (3, 5, 7)), rng.normal(size=(3, 5, 7))
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    assert rank_correlation(a, b) == pytest.approx(expected)


def test_a_constant_map_has_nothing_in_common():
    a = np.random.default_rng(5).normal(size=(1, 20))
    assert rank_correlation(a, np.ones_like(a)).tolist() == [0.0]


def test_large_maps_are_compared_at_evenly_spread_voxels():
    a = np.random.default_rng(6).normal(size=(1, 300_000))
    assert rank_correlation(a, a)[0] == pytest.approx(1)
    assert abs(rank_correlation(a, np.roll(a, 1, 1))[0]) < 0.02


def test_bounds_are_quantiles():
    bounds = estimate(0.5, np.linspace(0, 1, 101))
    assert (bounds.low, bounds.high) == pytest.approx((0.05, 0.95))
    assert str(bounds) == "0.50 [0.05, 0.95]"
