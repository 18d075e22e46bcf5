"""Grey for images of any range; colours that follow the values of a map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib import colormaps

from medcam.errors import InputError, UnknownNameError
from medcam.views import colorize, display_range
from medcam.views.colors import read_map, scale_map, to_bytes

RAMP = np.linspace(0, 1, 40 * 50).reshape(40, 50)


def window(image):
    """Return the image in its 0.5 to 99.5 percentile window, computed from the sorted values."""
    ordered = np.sort(image.astype(np.float64).ravel())
    places = np.arange(ordered.size)
    low, high = (np.interp(q * (ordered.size - 1), places, ordered) for q in (0.005, 0.995))
    return np.clip((image.astype(np.float64) - low) / (high - low), 0, 1)


RANGES = {
    "HU": (RAMP * 4000 - 1000).astype(np.int16),
    "0-1": RAMP.astype(np.float32),
    "0-255": (RAMP * 255).astype(np.uint8),
    "negative": RAMP * -3 - 100,
    "huge": RAMP * 1e30,
    "tiny": RAMP * 1e-30,
    "uint16": (RAMP * 65535).astype(np.uint16),
    "float16": RAMP.astype(np.float16),
}


@pytest.mark.parametrize("kind", RANGES)
def test_every_range_becomes_black_to_white(kind):
    image = RANGES[kind]
    shown = display_range(image)
    np.testing.assert_allclose(shown, window(image), atol=1e-12)
    assert shown.min() == 0
    assert shown.max() == 1
    np.testing.assert_allclose(display_range(torch.tensor(image)), shown)


def test_metal_does_not_darken_the_rest():
    image = RANGES["HU"].copy()
    image[20, 20:23] = 30000
    np.testing.assert_allclose(
        display_range(image)[:20], display_range(RANGES["HU"])[:20], atol=0.01
    )


@pytest.mark.parametrize("value", [0, 1, -1000, 255, 3.5, 1e300])
def test_a_constant_image_is_mid_grey(value):
    assert (display_range(np.full((4, 5), value)) == 128 / 255).all()


def test_a_constant_image_with_one_finding_shows_it():
    image = np.full((100, 100), -7.0)
    image[3, 4] = -6
    shown = display_range(image)
    assert shown[3, 4] == 1
    assert shown.sum() == 1


def test_nan_is_black_and_does_not_count():
    image = RAMP * 100 + 50
    holes = image.copy()
    holes[:10] = np.nan
    holes[10, :2] = np.inf, -np.inf
    shown = display_range(holes)
    assert (shown[:10] == 0).all()
    assert shown[10, :2].tolist() == [1, 0]
    rest = np.concatenate([image[10, 2:], image[11:].ravel()])
    np.testing.assert_allclose(shown[11:].ravel(), window(rest)[48:])
    assert (display_range(np.full((3, 3), np.nan)) == 0).all()


def test_bool_images():
    assert display_range(np.array([[True, False]])).tolist() == [[1, 0]]


def test_colour_is_kept():
    colour = np.random.default_rng(0).integers(30, 200, (6, 7, 3), np.uint8)
    np.testing.assert_array_equal(to_bytes(display_range(colour)), colour)
    np.testing.assert_array_equal(display_range(colour / 255), colour / 255)


def test_normalised_colour_gets_one_window_for_all_channels():
    colour = np.random.default_rng(0).uniform(0, 1, (60, 70, 3)) * (1, 0.5, 0.25)
    np.testing.assert_allclose(display_range(colour * 4 - 2), window(colour * 4 - 2), atol=1e-12)


def test_grey_in_three_channels_is_grey():
    grey = (RAMP * 60 + 100).astype(np.uint8)
    shown = display_range(np.stack([grey] * 3, axis=2))
    np.testing.assert_allclose(shown, np.stack([window(grey)] * 3, axis=2), atol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (4, 5, 2), (3, 4, 5), (2, 2, 2, 3), (0, 4)])
def test_what_is_no_image(shape):
    with pytest.raises(InputError, match=r"\[H, W\] or \[H, W, 3\]"):
        display_range(np.zeros(shape))


@given(
    hnp.arrays(
        st.sampled_from([np.float64, np.float32, np.int16, np.uint8]),
        st.sampled_from([(3, 4), (1, 1), (5, 5, 3)]),
    )
)
def test_any_image_at_all_can_be_shown(image):
    with np.errstate(all="raise", under="ignore"):
        shown = display_range(image)
    assert shown.shape == image.shape
    assert ((shown >= 0) & (shown <= 1)).all()


@pytest.mark.parametrize("factor", [1e-30, 0.01, 1, 7, 1e30])
def test_every_map_has_its_own_scale(factor):
    # The non-zero values 1 and 2: their 99.9th percentile is 1 + 0.999.
    values, signed = read_map(np.array([[0.0, 1.0, 2.0]]) * factor, signed=None)
    assert not signed
    np.testing.assert_allclose(scale_map(values), [[0, 1 / 1.999, 1]], rtol=1e-6)


def test_a_signed_map_is_symmetric_about_zero():
    values, signed = read_map(np.array([[0.0, 1.0], [-2.0, -2.0]]), signed=None)
    assert signed
    assert scale_map(values).tolist() == [[0, 0.5], [-1, -1]]
    assert scale_map(-values).tolist() == [[0, -0.5], [1, 1]]


def test_the_sign_can_be_said():
    values = np.array([[0.0, 1.0], [-3.0, 1.0]])
    positive, signed = read_map(values, signed=False)
    assert not signed
    assert positive.tolist() == [[0, 1], [0, 1]]
    assert read_map(positive, signed=True)[1]


def test_an_outlier_does_not_darken_the_rest():
    values = np.full((100, 100), 0.5)
    values[0, 0] = 1e6
    assert (scale_map(values) == 1).all()


def test_zeros_stay_zeros():
    assert not scale_map(np.zeros((3, 4))).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_with_a_hole_is_refused(bad):
    with pytest.raises(InputError, match="1 of 4 values"):
        read_map(np.array([[0, 1], [2, bad]]), signed=None)


@pytest.mark.parametrize("shape", [(4,), (1, 4, 5), (0, 4)])
def test_what_is_no_plane(shape):
    with pytest.raises(InputError):
        read_map(np.zeros(shape), signed=None)


@pytest.mark.parametrize(("signed", "name"), [(False, "inferno"), (True, "coolwarm")])
def test_the_default_colours(signed, name):
    ends = np.array([[-1.0, 0.0, 1.0]]) if signed else np.array([[0.0, 0.5, 1.0]])
    wanted = colormaps[name](np.array([[0.0, 0.5, 1.0]]))[..., :3]
    np.testing.assert_array_equal(colorize(ends, signed=signed), wanted)


def test_hot_is_hot_and_red_is_for():
    warm = colorize(np.linspace(0, 1, 50)[None], signed=False)
    assert (np.diff(warm.sum(axis=2)) > 0).all()  # more attention, more light
    cold, nothing, hot = colorize(np.array([[-1.0, 0.0, 1.0]]), signed=True)[0]
    assert hot[0] > hot[2] + 0.5
    assert cold[2] > cold[0] + 0.4
    assert np.ptp(nothing) < 0.02


def test_a_name_that_does_not_exist():
    with pytest.raises(UnknownNameError, match=r"'infarno' does not exist\. Did you mean 'inferno"):
        colorize(np.zeros((2, 2)), signed=False, colormap="infarno")
