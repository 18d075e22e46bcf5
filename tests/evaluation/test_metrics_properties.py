"""What holds for every metric on every map and mask."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from medcam.evaluation import METRICS
from medcam.evaluation.metrics import Options

SHAPES = npst.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5)
EACH = pytest.mark.parametrize("name", METRICS)
PLACELESS = [name for name in METRICS if METRICS[name].unit == ""]
few = settings(max_examples=25, deadline=None)


@st.composite
def cases(draw):
    """A map of whole numbers (ties, and exact under scaling) or of any floats, a mask, options."""
    shape = draw(SHAPES)
    whole = st.integers(0, 6).map(float)
    values = draw(st.sampled_from([whole, st.floats(0, 1e6, width=32)]))
    attention = draw(npst.arrays(np.float64, shape, elements=values))
    mask = draw(npst.arrays(bool, shape))
    sizes = draw(st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * len(shape)))
    threshold = draw(st.sampled_from(["otsu", 0.0, 0.25, 0.5, 1.0]))
    return attention, mask, (threshold, sizes, draw(st.sampled_from([0.0, 1.0])))


def read(case):
    """Makes the options here: in a strategy, the type checker's random samples are an offence."""
    attention, mask, options = case
    return attention, mask, Options(*options)


def same(score):
    return pytest.approx(score, rel=1e-9, abs=1e-12, nan_ok=True)


@EACH
@few
@given(cases())
def test_within_bounds(name, case):
    attention, mask, options = read(case)
    score = METRICS[name].score(attention, mask, options)
    diagonal = math.dist([0] * mask.ndim, (np.array(mask.shape) - 1) * options.spacing)
    assert math.isnan(score) or 0 <= score <= (diagonal if METRICS[name].unit else 1) + 1e-12
    level = METRICS[name].chance_level(mask, options)
    assert level is None or 0 <= level <= 1


@EACH
@few
@given(cases())
def test_nan_only_where_the_table_says(name, case):
    attention, mask, options = read(case)
    assume(mask.any() and not mask.all() and attention.min() < attention.max())
    assert math.isfinite(METRICS[name].score(attention, mask, options))


@EACH
@few
@given(cases(), st.integers(-12, 12))
def test_scaling_the_map_changes_nothing(name, case, power):
    attention, mask, options = read(case)
    scaled = attention * 2.0**power
    assert METRICS[name].score(scaled, mask, options) == same(
        METRICS[name].score(attention, mask, options)
    )


@EACH
@few
@given(cases(), st.data())
def test_flips_and_turns_change_nothing(name, case, data):
    attention, mask, options = read(case)
    axes = data.draw(st.permutations(range(mask.ndim)))
    flipped = data.draw(st.lists(st.sampled_from(range(mask.ndim)), unique=True))
    turned = Options(
        options.threshold, tuple(options.spacing[axis] for axis in axes), options.tolerance_mm
    )
    score = METRICS[name].score(
        np.flip(attention.transpose(axes), flipped), np.flip(mask.transpose(axes), flipped), turned
    )
    assert score == same(METRICS[name].score(attention, mask, options))


@pytest.mark.parametrize("name", PLACELESS)
@few
@given(cases(), st.integers(0, 99))
def test_shares_do_not_see_where_a_voxel_lies(name, case, seed):
    attention, mask, options = read(case)
    order = np.random.default_rng(seed).permutation(mask.size)
    options = Options(options.threshold)
    score = METRICS[name].score(
        attention.ravel()[order].reshape(mask.shape),
        mask.ravel()[order].reshape(mask.shape),
        options,
    )
    assert score == same(METRICS[name].score(attention, mask, options))


@pytest.mark.parametrize("name", [name for name in METRICS if name != "relevance_mass"])
@few
@given(cases())
def test_an_offset_changes_nothing_but_the_mass(name, case):
    attention, mask, options = read(case)
    attention = np.round(attention % 64)
    assert METRICS[name].score(attention + 8, mask, options) == same(
        METRICS[name].score(attention, mask, options)
    )


@EACH
@few
@given(cases())
def test_the_mask_itself_is_the_perfect_map(name, case):
    _, mask, options = read(case)
    assume(mask.any() and not mask.all())
    options = Options("otsu", options.spacing, options.tolerance_mm)
    assert METRICS[name].score(mask * 5.0, mask, options) == (0 if METRICS[name].unit else 1)


@EACH
@few
@given(cases())
def test_inputs_stay_as_they_were(name, case):
    attention, mask, options = read(case)
    before = attention.copy(), mask.copy()
    attention.flags.writeable = mask.flags.writeable = False
    METRICS[name].score(attention, mask, options)
    np.testing.assert_array_equal(attention, before[0])
    np.testing.assert_array_equal(mask, before[1])
