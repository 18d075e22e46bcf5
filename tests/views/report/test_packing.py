"""Arrays in a page keep their values to within half a step."""

from __future__ import annotations

import base64
import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medcam.views.report.packing import Packed, pack


def unpack(packed: Packed, shape: tuple[int, ...]) -> np.ndarray:
    """Return the values that the viewer computes, by NumPy."""
    stored = np.frombuffer(gzip.decompress(base64.b64decode(packed.text)), np.uint8).astype(int)
    count = int(np.prod(shape))
    codes = stored if packed.bytes == 1 else stored[:count] + 256 * stored[count:]
    values = (codes + packed.first) * packed.step
    values = np.where(packed.gaps & (codes == 0), np.nan, values)
    return values.reshape(shape, order="F")


@pytest.mark.parametrize("span", [1.0, 80.0, 5000.0])
@pytest.mark.parametrize("offset", [0.0, -3.0, 1e6])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 3e4])
def test_floats_are_kept_to_half_a_step(scale: float, offset: float, span: float) -> None:
    values = offset + scale * np.random.default_rng(0).normal(size=(5, 6, 7))
    packed = pack(values, span=span * scale)
    error = np.abs(unpack(packed, values.shape) - values).max()
    rounding = 2 * np.spacing(np.abs(values).max())
    assert error <= packed.step / 2 + rounding
    extent = values.max() - values.min()
    assert packed.step <= max(span * scale / 1023, 2.6 * extent / 65_534, abs(offset) * 2.0**-48)


@given(
    hnp.arrays(
        np.float32,
        (3, 4, 2),
        elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.just(float("nan")),
    )
)
def test_any_array_is_kept_to_half_a_step_and_gaps_stay_gaps(values: np.ndarray) -> None:
    packed = pack(values, span=1.0)
    read = unpack(packed, values.shape)
    assert (np.isnan(read) == np.isnan(values)).all()
    known = ~np.isnan(values)
    assert (np.abs(read - values)[known] <= packed.step / 2 * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("values", "size"),
    [
        (np.array([[0, 255]], np.uint8), 1),
        (np.array([[-1024, 3071]], np.int16), 2),
        (np.array([[-1024.0, 3071.0]], np.float32), 2),
        (np.array([[0, 65_534]], np.int64), 2),
        (np.array([[7, 7]], np.int8), 1),
        (np.array([[False, True]]), 1),
    ],
)
def test_whole_numbers_are_kept_exactly(values: np.ndarray, size: int) -> None:
    packed = pack(values, span=1.0)
    assert packed.exact
    assert packed.bytes == size
    assert (unpack(packed, values.shape) == values).all()


def test_whole_numbers_of_a_wide_range_are_not_called_exact() -> None:
    values = np.array([[0, 1, 200_001]])
    packed = pack(values, span=200_000.0)
    assert not packed.exact
    assert np.abs(unpack(packed, values.shape) - values).max() <= packed.step / 2


def test_zero_stays_zero() -> None:
    values = np.array([[-0.7137, 0.0, 1.3391]])
    assert unpack(pack(values, span=1.0), values.shape)[0, 1] == 0


def test_one_value_is_kept_exactly() -> None:
    packed = pack(np.full((2, 2), 0.37), span=0.0)
    assert packed.exact
    assert (unpack(packed, (2, 2)) == 0.37).all()


def test_the_first_axis_runs_fastest() -> None:
    values = np.arange(24).reshape(2, 3, 4)
    stored = gzip.decompress(base64.b64decode(pack(values, span=1.0).text))
    assert list(stored) == values.flatten(order="F").tolist()
