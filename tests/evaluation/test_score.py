"""compute_score: accepted types, resampling, signs and options."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates

from medcam.errors import MedcamWarning
from medcam.evaluation import METRICS, compute_score
from medcam.evaluation.score import check_options, score_and_chance

MAP = np.array([[0.0, 4.0, 1.0], [2.0, 3.0, 0.5]])  # exact in every type
MASK = np.array([[0, 1, 0], [1, 0, 0]])
MASS = 6 / 10.5


@pytest.mark.parametrize(
    "values",
    [
        MAP,
        MAP.astype(np.float16),
        MAP.astype(">f4"),
        np.asfortranarray(MAP),
        MAP[::-1][::-1],
        MAP.tolist(),
        torch.tensor(MAP),
        torch.tensor(MAP, dtype=torch.float32, requires_grad=True),
        torch.tensor(MAP, dtype=torch.bfloat16),
        torch.tensor(MAP, dtype=torch.float16),
        MetaTensor(torch.tensor(MAP)),
        MetaTensor(torch.tensor(MAP, dtype=torch.bfloat16)),
    ],
    ids=lambda values: f"{type(values).__name__}-{getattr(values, 'dtype', '')}",
)
def test_maps_of_every_kind(values):
    score = compute_score(values, MASK, "relevance_mass")
    assert type(score) is float
    assert score == MASS


def test_whole_numbers_are_a_map():
    assert compute_score(np.array([[1, 3]], dtype=np.uint8), [[0, 1]], "relevance_mass") == 0.75
    assert compute_score(torch.tensor([[1, 3]]), [[0, 1]], "relevance_mass") == 0.75
    assert compute_score([[False, True]], [[0, 1]], "relevance_mass") == 1.0


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.int64, np.float16, np.float64, torch.bool, torch.bfloat16]
)
def test_masks_of_every_kind(dtype):
    values = (
        torch.tensor(MASK, dtype=dtype) if isinstance(dtype, torch.dtype) else MASK.astype(dtype)
    )
    assert compute_score(MAP, values, "relevance_mass") == MASS


@pytest.mark.parametrize("name", METRICS)
def test_leading_axes_of_one_do_not_count(name):
    expected = compute_score(MAP, MASK, name, 0.5)
    for lead in ((1,), (1, 1), (1, 1, 1)):
        for attention, mask in (
            (MAP.reshape(*lead, 2, 3), MASK),
            (MAP, MASK.reshape(*lead, 2, 3)),
            (MAP.reshape(*lead, 2, 3), MASK.reshape(*lead, 2, 3)),
            (MAP.reshape(*lead, 2, 3), MASK.reshape(1, 2, 3)),
        ):
            assert compute_score(attention, mask, name, 0.5) == expected


def test_a_batch_axis_goes_before_a_resize_and_for_the_spacing():
    large = compute_score(np.kron(MAP, np.ones((1, 1))), np.kron(MASK, np.ones((2, 2))), "hd95")
    batch = compute_score(MAP[None, None], np.kron(MASK, np.ones((2, 2)))[None, None], "hd95")
    assert batch == large
    spaced = compute_score(MAP[None, None], MASK[None, None], "assd", 0.9, spacing=(3.0, 0.5))
    assert spaced == compute_score(MAP, MASK, "assd", 0.9, spacing=(3.0, 0.5))


def test_a_thin_volume_keeps_its_three_axes_where_the_spacing_says_so():
    thin = compute_score(MAP[None], MASK[None], "assd", 0.9, spacing=(9.0, 3.0, 0.5))
    assert thin == compute_score(MAP, MASK, "assd", 0.9, spacing=(3.0, 0.5))


def test_linear_resizing_by_hand():
    """[0, 1] becomes [0, .25, .75, 1] over twice the pixels."""
    assert compute_score([[0.0, 1.0]], [[0, 0, 0, 1]], "relevance_mass") == 1 / 2
    assert compute_score([[0.0, 1.0]], [[0, 1, 0, 0]], "relevance_mass") == 0.25 / 2
    assert compute_score([0.0, 1.0], [0, 0, 1, 0], "relevance_mass") == 0.75 / 2


@pytest.mark.filterwarnings("ignore:The attention map has shape")
@pytest.mark.parametrize(
    ("size", "grid"), [((3, 4), (7, 9)), ((5, 3), (5, 4)), ((3, 4, 2), (7, 4, 5)), ((5,), (11,))]
)
def test_axes_that_grow_are_interpolated_as_scipy_does(size, grid):
    attention = np.random.default_rng(0).random(size)
    at = np.meshgrid(
        *[(np.arange(g) + 0.5) * s / g - 0.5 for s, g in zip(size, grid, strict=True)],
        indexing="ij",
    )
    expected = map_coordinates(attention, at, order=1, mode="nearest")
    received = {}
    compute_score(attention, np.ones(grid), lambda a, m: received.update(map=a, mask=m) or 1.0)
    np.testing.assert_allclose(received["map"], expected, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:The attention map has shape")
@pytest.mark.parametrize(
    ("size", "grid"), [((6, 4), (3, 2)), ((9, 9), (3, 3)), ((8, 4, 6), (4, 1, 2)), ((10,), (5,))]
)
def test_axes_that_shrink_are_means_over_areas(size, grid):
    attention = np.random.default_rng(0).random(size)
    blocks = [n for g, s in zip(grid, size, strict=True) for n in (g, s // g)]
    expected = attention.reshape(blocks).mean(tuple(range(1, 2 * len(size), 2)))
    received = {}
    compute_score(attention, np.ones(grid), lambda a, m: received.update(map=a) or 1.0)
    np.testing.assert_allclose(received["map"], expected, rtol=1e-12)


@pytest.mark.parametrize("corner", [(9, 9), (28, 37), (44, 51)])
def test_a_small_blob_is_not_lost_between_the_voxels_of_a_coarse_mask(corner):
    """Linear sampling at the mask's eight points would miss it: the score was NaN."""
    attention, mask = np.zeros((64, 64)), np.zeros((8, 8))
    row, column = corner
    attention[row : row + 3, column : column + 3] = 2.5
    mask[row // 8 : (row + 2) // 8 + 1, column // 8 : (column + 2) // 8 + 1] = 1
    assert compute_score(attention, mask, "relevance_mass") == 1.0
    assert compute_score(attention, mask, "pointing_game") == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, 1e-30, 3e4])
def test_a_constant_map_stays_constant_on_the_masks_grid(value, dtype):
    mask = np.zeros((17, 23))
    mask[3:9, 4:8] = 1
    small = torch.full((3, 5), value, dtype=dtype)
    assert math.isnan(compute_score(small, mask))
    assert compute_score(small, mask, "dice", 0.0) == 0.0
    assert compute_score(small, mask, "auroc") == 0.5


@pytest.mark.parametrize(("value", "dtype"), [(0.9, torch.float32), (0.3, torch.float64)])
def test_a_constant_map_that_was_resized_before_is_still_constant(value, dtype):
    mask = np.zeros((17, 23, 11))
    mask[3:9, 4:8, 2:5] = 1
    rounded = torch.full((1, 1, *mask.shape), value, dtype=dtype)
    # what interpolation leaves, which differs between versions of torch: one step here and there
    up = torch.tensor(float("inf"), dtype=dtype)
    rounded[..., ::3] = torch.nextafter(rounded[..., ::3], up)
    assert rounded.unique().numel() == 2  # the case that this test is about
    assert math.isnan(compute_score(rounded, mask))


def test_a_small_contrast_is_a_contrast():
    assert compute_score(np.array([[1.0, 1.0 + 1e-12]]), [[0, 1]]) == 1.0
    assert compute_score(np.float32([[1.0, 1.0 + 1e-6]]), [[0, 1]]) == 1.0
    assert compute_score(torch.tensor([[1.0, 1.01]], dtype=torch.bfloat16), [[0, 1]]) == 1.0


def test_a_signed_map_counts_by_its_absolute_values():
    signed = np.array([[-4.0, 1.0, 3.0]])
    assert compute_score(signed, [[1, 0, 0]], "relevance_mass") == 0.5
    assert compute_score(signed, [[1, 0, 0]], "pointing_game") == 1.0
    # min-max of the signed map would make the -4 the lowest, and cut it off
    assert compute_score(signed, [[1, 0, 0]], "ioa", 0.9) == 1.0


def test_absolute_values_are_taken_before_the_resizing():
    """|-2|, |1| over four pixels: 2, 1.75, 1.25, 1; the signed way 2, 1.25, .25, 1."""
    assert compute_score([[-2.0, 1.0]], [[0, 0, 1, 0]], "relevance_mass") == 1.25 / 6
    assert math.isnan(compute_score([[-1.0, 1.0]], [[0, 0, 1, 0]], "relevance_mass"))


def test_the_threshold_is_used():
    assert compute_score(MAP, MASK, "ioa", 0.0) == 2 / 6
    assert compute_score(MAP, MASK, "ioa", 0.5) == 2 / 3
    assert compute_score(MAP, MASK, "ioa", 1.0) == 1.0
    assert compute_score(MAP, MASK, "wioa", 0.5) == 6 / 9
    assert compute_score(MAP, MASK) == compute_score(MAP, MASK, "wioa", "otsu")


def test_spacing_and_tolerance_are_used():
    attention, mask = np.zeros((4, 5)), np.zeros((4, 5))
    attention[0, 0], mask[3, 4] = 1.0, 1.0
    assert compute_score(attention, mask, "centroid_distance") == 5.0
    for name in ("hd95", "assd", "centroid_distance"):
        assert compute_score(attention, mask, name, spacing=(4.0, 4.0)) == 20.0
        assert compute_score(attention, mask, name, spacing=[1.0, 1.0]) == 5.0
    point = partial(compute_score, attention, mask, "pointing_game", spacing=(4.0, 4.0))
    assert (point(tolerance_mm=19.9), point(tolerance_mm=20.0)) == (0.0, 1.0)


def test_the_chance_level_comes_with_the_score():
    options = check_options("otsu", (2, 1), 2)
    assert score_and_chance(MAP, MASK, "relevance_mass", options) == (MASS, 2 / 6)
    assert score_and_chance(MAP, MASK, "auroc", options).chance == 0.5
    assert score_and_chance(MAP, MASK, "pointing_game", options).chance == 1.0
    assert score_and_chance(MAP, MASK, "dice", options).chance is None
    assert score_and_chance(MAP, MASK, lambda a, m: 2.0, options) == (2.0, None)


@pytest.mark.parametrize(
    ("shape", "other", "warned"),
    [
        ((91, 109), (80, 109), True), ((92, 110), (91, 109), False), ((12, 14), (91, 109), False),
        ((64, 64), (32, 64), False), ((128, 128), (91, 109), True), ((6, 7), (6, 7), False),
    ],
)  # fmt: skip
def test_a_warning_if_one_of_both_may_be_cropped(shape, other, warned):
    attention, mask = np.random.default_rng(0).random(shape), np.zeros(other, bool)
    mask[2:5] = True
    if warned:
        with pytest.warns(MedcamWarning, match="as if both covered the same region"):
            compute_score(attention, mask)
    else:
        compute_score(attention, mask)
