"""compute_score: errors for invalid arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medcam.errors import InputError, InputTypeError, MaskError, UnknownNameError
from medcam.evaluation import compute_score
from medcam.evaluation.score import check_metric, check_options
from medcam.maps import AttentionMap, ResolvedTarget

MAP = np.array([[0.0, 4.0, 1.0], [2.0, 3.0, 0.5]])
MASK = np.array([[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_map_that_is_not_finite(bad):
    attention = MAP.copy()
    attention[0, :2] = bad
    with pytest.raises(InputError, match="2 of the 6 values of the attention map are NaN or infin"):
        compute_score(attention, MASK)
    with pytest.raises(InputError, match="NaN or infinite"):
        compute_score(torch.tensor(attention, dtype=torch.bfloat16), MASK, lambda a, m: 1.0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([[0, 1, 2]]), r"\(int64\) holds 0, 1, 2\. .*mask == label"),
        (np.array([[0, 255, 0]], np.uint8), r"\(uint8\) holds 0, 255\."),
        (np.array([[0, 0.5, 1]]), r"holds 0, 0\.5, 1\. .*mask > 0\.5"),
        (np.array([[0, -1, 0]]), r"holds -1, 0\."),
        (np.array([[0, math.nan, 1]]), r"holds 0, 1, nan\."),
        (np.array([[2, 2, 2]]), r"holds 2\."),
        (torch.tensor([[0, 0.25, 1]], dtype=torch.bfloat16), r"holds 0, 0\.25, 1\."),
    ],
)
def test_a_mask_that_is_not_0_and_1(mask, message):
    with pytest.raises(MaskError, match=message):
        compute_score(np.array([[1.0, 2.0, 3.0]]), mask)


def test_a_mask_of_many_values_names_some():
    with pytest.raises(MaskError, match=r"holds 0, 1, 2, 3, 4, 5, …\. "):
        compute_score(np.eye(5, 10), np.arange(50).reshape(5, 10))


@pytest.mark.parametrize(
    ("shape", "other"),
    [
        ((4, 4), (4, 4, 4)),
        ((2, 4, 4), (4, 4)),
        ((2, 1, 4, 4), (4, 4)),
        ((4, 4), (3, 4, 4)),
        ((4,), (4, 4)),
    ],
)
def test_ranks_that_cannot_agree(shape, other):
    with pytest.raises(MaskError) as raised:
        compute_score(np.random.default_rng(0).random(shape), np.ones(other))
    assert str(shape) in str(raised.value)
    assert str(other) in str(raised.value)


def test_more_than_three_axes_are_not_resized():
    attention = np.random.default_rng(0).random((2, 3, 4, 4))
    assert 0 < compute_score(attention, attention > 0.5, "dice") <= 1
    with pytest.raises(MaskError, match="more than three axes"):
        compute_score(attention, np.ones((2, 3, 8, 8)))


@pytest.mark.parametrize("empty", [np.zeros((0, 3)), np.float64(1.0)])
def test_nothing_to_score(empty):
    with pytest.raises(InputError, match="The attention map has no voxels"):
        compute_score(empty, MASK)
    with pytest.raises(MaskError, match="The mask has no voxels"):
        compute_score(MAP, empty)


@pytest.mark.parametrize("values", [None, "map", MAP + 1j, [[1.0], [1.0, 2.0]], object()])
def test_inputs_that_are_no_numeric_array(values):
    with pytest.raises(InputTypeError, match="The attention map is a"):
        compute_score(values, MASK)
    with pytest.raises(InputTypeError, match="The mask is a"):
        compute_score(MAP, values)


def test_unknown_metrics():
    with pytest.raises(UnknownNameError, match=r"'diec' does not exist. Did you mean 'dice'\?"):
        compute_score(MAP, MASK, "diec")
    with pytest.raises(UnknownNameError, match="callable"):
        compute_score(MAP, MASK, "IoU!")
    with pytest.raises(InputTypeError, match=r"The metric is a int: 3\. Give one of wioa, ioa"):
        check_metric(3)


def test_thresholds_are_checked_for_every_metric():
    with pytest.raises(InputError, match=r"Threshold 1\.5 is outside"):
        compute_score(MAP, MASK, "auroc", 1.5)
    with pytest.raises(InputError, match="'li' does not exist"):
        compute_score(MAP, MASK, "auroc", "li")


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), ()])
def test_spacing_is_positive(spacing):
    with pytest.raises(InputError, match="give one positive number of mm per axis"):
        compute_score(MAP, MASK, spacing=spacing)


@pytest.mark.parametrize("spacing", [1.0, ("a", "b"), (None, 1)])
def test_spacing_is_numbers(spacing):
    with pytest.raises(InputTypeError, match="give one number of mm per axis"):
        check_options("otsu", spacing, 0.0)


def test_spacing_has_one_number_per_axis():
    with pytest.raises(InputError, match=r"spacing has 3 values, .* but the mask 2 axes, \(2, 3\)"):
        compute_score(MAP, MASK, spacing=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_tolerance_is_not_negative(tolerance):
    with pytest.raises(InputError, match="give a number of mm, 0 or more"):
        compute_score(MAP, MASK, tolerance_mm=tolerance)


@pytest.mark.parametrize("tolerance", [None, "3", True])
def test_tolerance_is_a_number(tolerance):
    with pytest.raises(InputTypeError, match="give a number of mm, 0 or more"):
        check_options("otsu", None, tolerance)


def test_a_map_of_a_batch_is_refused_with_the_way_to_one_sample():
    target = ResolvedTarget("class 1", "classification")
    item = AttentionMap(torch.rand(1, 1, 2, 3), "gcam", "layer4", target)
    with pytest.raises(InputTypeError, match=r"map\.attention\(\)\[0, 0\]"):
        compute_score(item, MASK)
    assert 0 <= compute_score(item.attention()[0, 0], MASK, "relevance_mass") <= 1
