"""Normalisation and thresholding of a map."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from medcam.errors import InputError, InputTypeError
from medcam.evaluation.thresholds import (
    attended_region,
    check_threshold,
    normalize,
    threshold_value,
)

from ._replica import otsu


def test_normalize_by_hand():
    values = np.array([[-2.0, 0.0], [2.0, 6.0]])
    np.testing.assert_array_equal(normalize(values), [[0.0, 0.25], [0.5, 1.0]])


@pytest.mark.parametrize("value", [0.0, 3.5, 1e300, 5e-324])
def test_a_constant_becomes_zero_and_never_nan(value):
    np.testing.assert_array_equal(normalize(np.full((2, 3), value)), np.zeros((2, 3)))


@pytest.mark.parametrize("scale", [1e-320, 1e-30, 1.0, 1e30, 1e308])
def test_the_extremes_are_exactly_0_and_1_at_any_scale(scale):
    stretched = normalize(np.array([[0.1, 0.5, 0.9]]) * scale)
    assert (stretched.min(), stretched.max()) == (0.0, 1.0)
    assert np.isfinite(stretched).all()


@pytest.mark.parametrize("shape", [(30, 20), (8, 9, 3), (8, 9, 4)])  # 3 and 4 are no colours
def test_otsu_equals_scikit_image_and_a_search_by_hand(shape):
    rng = np.random.default_rng(0)
    values = normalize(
        np.where(rng.random(shape) < 0.3, rng.normal(8, 1, shape), rng.random(shape))
    )
    assert threshold_value(values, "otsu") == threshold_otsu(values.ravel(), nbins=256)
    assert threshold_value(values, "otsu") == pytest.approx(
        otsu(values.ravel().tolist()), abs=1e-12
    )
    assert 1 / 256 < threshold_value(values, "otsu") < 255 / 256


def test_a_voxel_at_the_threshold_is_attended():
    _, region = attended_region(np.array([[0.0, 1.0, 2.0, 4.0]]), 0.5)
    assert region.tolist() == [[False, False, True, True]]


def test_the_ends_of_the_threshold():
    ramp = np.array([[0.0, 1.0, 2.0]])
    assert attended_region(ramp, 0.0)[1].tolist() == [[True, True, True]]
    assert attended_region(ramp, 1.0)[1].tolist() == [[False, False, True]]


@pytest.mark.parametrize("threshold", ["otsu", 0.0, 1.0])
def test_a_constant_map_attends_to_nothing(threshold):
    normalized, region = attended_region(np.ones((2, 2)), threshold)
    assert not normalized.any()
    assert not region.any()


@pytest.mark.parametrize("threshold", ["otsu", 0, 1, 0.3, np.float32(0.5), np.int64(1)])
def test_valid_thresholds(threshold):
    assert check_threshold(threshold) == threshold


@pytest.mark.parametrize("threshold", [-0.01, 1.01, 255, math.nan, math.inf])
def test_numbers_out_of_range(threshold):
    with pytest.raises(InputError, match=r"outside the range .* Give 'otsu' or a number"):
        check_threshold(threshold)


def test_an_unknown_name():
    with pytest.raises(InputError, match=r"'Otsu' does not exist. Give 'otsu' or a number"):
        check_threshold("Otsu")


@pytest.mark.parametrize("threshold", [None, True, [0.5], np.array([0.5])])
def test_other_types(threshold):
    with pytest.raises(InputTypeError, match=r"Give 'otsu' or a number"):
        check_threshold(threshold)
