"""The windows are MONAI's: the same places, the same weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from medcam.engine.windows.tiling import sliding_windows
from medcam.errors import InputError


@st.composite
def grids(draw):
    dims = draw(st.integers(2, 3))
    space = [draw(st.integers(1, 23)) for _ in range(dims)]
    roi = [draw(st.integers(1, 12)) for _ in range(dims)]
    overlap = [draw(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.625, 0.9])) for _ in range(dims)]
    return space, roi, overlap


@given(grids(), st.sampled_from(["gaussian", "constant"]))
@settings(max_examples=150)
def test_places_and_weights_are_monais(grid, mode):
    space, roi, overlap = grid
    whole = tuple(max(pair) for pair in zip(space, roi, strict=True))
    steps = _get_scan_interval(whole, roi, len(space), overlap)
    theirs = dense_patch_slices(whole, roi, steps)
    ours = sliding_windows(space, roi, overlap=overlap, mode=mode)
    assert ours.shape == whole
    assert [[(s.start, s.stop) for s in p] for p in ours.places] == [
        [(int(s.start), int(s.stop)) for s in p] for p in theirs
    ]
    assert torch.equal(ours.weights, compute_importance_map(tuple(roi), mode=mode))


@given(grids(), st.sampled_from(["constant", "replicate", "circular"]))
@settings(max_examples=60)
def test_folding_is_the_backward_pass_of_padding(grid, padding_mode):
    space, roi, _ = grid
    if padding_mode == "circular":
        roi = [min(r, s) for r, s in zip(roi, space, strict=True)]
    windows = sliding_windows(space, roi, padding_mode=padding_mode)
    x = torch.rand(2, 3, *space, dtype=torch.float64, requires_grad=True)
    padded = windows.pad(x)
    seed = torch.rand_like(padded)
    (expected,) = torch.autograd.grad(padded, x, seed)
    assert torch.equal(windows.fold(seed), expected)
    assert torch.equal(windows.crop(padded), x)


def test_zero_or_less_is_the_whole_axis():
    assert sliding_windows((9, 7, 5), (4, 0, -1)).weights.shape == (4, 7, 5)


def test_slices_along_an_axis_are_windows_of_a_2d_model():
    windows = sliding_windows((6, 4, 6), 6, slice_axis=1)
    assert windows.places == tuple((slice(0, 6), i, slice(0, 6)) for i in range(4))
    assert windows.weights.shape == (6, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 1.0}, "at least 0 and below 1"),
        ({"overlap": (0.5,)}, "has 1 number; 3 are needed"),
        ({"mode": "linear"}, "choose 'gaussian' or 'constant'"),
        ({"padding_mode": "mirror"}, "choose from constant, reflect"),
        ({"sigma_scale": 0}, "above 0"),
        ({"slice_axis": 3}, "choose an axis from -3 to 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        sliding_windows((8, 8, 8), 4, **options)
