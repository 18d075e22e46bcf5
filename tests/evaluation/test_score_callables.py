"""compute_score with a callable as metric."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from medcam.errors import InputTypeError
from medcam.evaluation import compute_score
from medcam.evaluation.ranking import top_k

MAP = np.array([[0.0, 4.0, 1.0], [2.0, 3.0, 0.5]])
MASK = np.array([[0, 1, 0], [1, 0, 0]])


def test_a_callable_gets_the_raw_map_on_the_grid_and_the_mask():
    received = []

    def metric(attention, mask):
        received.append((attention.copy(), mask.copy()))
        return np.float32(0.25)

    attention, mask = np.array([[-2.0, 1.0]]), np.array([[0, 0, 1, 0]], dtype=bool)
    score = compute_score(attention, mask, metric)
    assert type(score) is float
    assert score == 0.25
    np.testing.assert_array_equal(received[0][0], [[-2.0, -1.25, 0.25, 1.0]])
    assert received[0][0].dtype == np.float64
    assert received[0][1].dtype == bool
    assert received[0][1].tolist() == [[False, False, True, False]]


@pytest.mark.parametrize(
    "values", [[[-2.0, 1.0, 0.0, 0.5]], [[0.3, 0.3, 0.3, np.nextafter(0.3, 1)]]]
)
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_the_callers_arrays_stay_as_they_were(kind, values):
    def overwrite(attention, mask):
        attention[:], mask[:] = -1, True
        return 0.0

    attention, mask = kind(values), kind([[False, False, True, False]])
    compute_score(attention, mask, overwrite)
    compute_score(attention, mask)
    assert attention.tolist() == values
    assert mask.tolist() == [[False, False, True, False]]


def test_a_callable_may_return_any_single_number_but_nothing_else():
    assert compute_score(MAP, MASK, lambda a, m: torch.tensor(a[m].sum())) == 6.0
    assert compute_score(MAP, MASK, partial(top_k, k=1)) == 1.0
    assert math.isnan(compute_score(MAP, MASK, lambda a, m: math.nan))
    with pytest.raises(InputTypeError, match="returned a NoneType; it must return one number"):
        compute_score(MAP, MASK, lambda a, m: None)
