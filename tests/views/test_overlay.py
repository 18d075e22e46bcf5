"""A map over its image: unchanged where the map is zero, strongest colour at its maximum."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from skimage.transform import resize

from medcam.errors import InputError, InputTypeError
from medcam.views import display_range, grey_picture, overlay

RNG = np.random.default_rng(0)
H, W = 17, 23
GREY = RNG.integers(0, 256, (H, W), np.uint8)
COLOUR = RNG.integers(0, 256, (H, W, 3), np.uint8)
YY, XX = np.mgrid[:H, :W]
BLOB = np.exp(-((YY - 5) ** 2 + (XX - 16) ** 2) / 18)


def shown(image) -> np.ndarray:
    """Return the image alone, as bytes."""
    values = np.rint(display_range(image) * 255)
    return (values if values.ndim == 3 else np.stack([values] * 3, axis=2)).astype(np.uint8)


RANGES = {
    "HU": GREY.astype(np.float32) / 255 * 4000 - 1000,
    "0-1": GREY / 255,
    "0-255": GREY,
    "negative": GREY / -10 - 3,
    "constant": np.full((H, W), -1000),
    "colour": COLOUR,
}


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("size", [(H, W), (4, 5), (40, 60)])
def test_a_zero_map_leaves_every_image_unchanged(kind, size):
    for signed in (False, True):
        picture = overlay(np.zeros(size), RANGES[kind], signed=signed)
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, shown(RANGES[kind]))


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize(("sign", "name"), [(1, "inferno"), (-1, "coolwarm")])
def test_the_strongest_pixel_takes_the_colormaps_end(kind, sign, name):
    picture = overlay(sign * BLOB, RANGES[kind]).astype(float)
    base = shown(RANGES[kind]).astype(float)
    end = np.array(colormaps[name](1.0 if sign > 0 else 0.0)[:3]) * 255
    np.testing.assert_allclose(picture[5, 16], 0.4 * base[5, 16] + 0.6 * end, atol=1.01)
    np.testing.assert_array_equal(picture[14:, :5], base[14:, :5])


@pytest.mark.parametrize("opacity", [0, 0.25, 1])
def test_opacity_is_that_of_the_strongest_pixel(opacity):
    end = np.array(colormaps["inferno"](1.0)[:3]) * 255
    picture = overlay(BLOB, COLOUR, opacity=opacity)
    wanted = (1 - opacity) * COLOUR[5, 16] + opacity * end
    np.testing.assert_allclose(picture[5, 16], wanted, atol=1.01)


def test_opacity_grows_with_the_magnitude():
    values = np.linspace(-1, 1, 41)[None]
    for image in (0, 255):  # black and white of one picture tell the opacity: 1 - white + black
        raw = np.full((1, 41, 3), image, np.uint8)
        raw[0, 0] = 128, 127, 129  # so that it is a colour picture, kept as it is
        if image == 0:
            black = overlay(values, raw).astype(float)
        else:
            white = overlay(values, raw).astype(float)
    alpha = 1 - (white - black)[0, 1:, 0] / 255
    assert alpha[19] == 0
    assert (np.diff(alpha[:20]) < 0).all()
    assert (np.diff(alpha[19:]) > 0).all()
    np.testing.assert_allclose(alpha[:19], alpha[38:19:-1], atol=0.01)


def test_the_map_comes_to_the_image_linearly_and_never_the_other_way():
    small = RNG.uniform(0, 1, (5, 6))
    small[2, 2] = 0  # so that there is one
    big = resize(small, (40, 60), order=1, mode="edge", anti_aliasing=False)
    big = np.clip(big / np.percentile(big[big > 0], 99.9), 0, 1)
    raw = np.zeros((40, 60, 3), np.uint8)
    raw[0, 0] = 1, 2, 3
    wanted = 0.6 * big[..., None] ** 0.7 * colormaps["inferno"](big)[..., :3] * 255
    np.testing.assert_allclose(overlay(small, raw)[1:], wanted[1:], atol=2)


def test_a_peak_survives_shrinking():
    values = np.zeros((64, 64))
    values[33, 18] = 1
    raw = np.zeros((4, 4, 3), np.uint8)
    raw[0, 0] = 1, 2, 3
    changed = np.abs(overlay(values, raw).astype(int) - raw).sum(axis=2)
    assert np.unravel_index(changed.argmax(), (4, 4)) == (2, 1)


def test_without_an_image_the_colours_of_the_map_at_its_own_size():
    scaled = np.clip(BLOB / np.percentile(BLOB, 99.9), 0, 1)
    wanted = np.rint(colormaps["inferno"](scaled)[..., :3] * 255)
    assert (np.abs(overlay(BLOB) - wanted) > 2).mean() < 0.01  # float32 here and there
    assert (
        overlay(np.zeros((H, W))) == np.rint(np.multiply(colormaps["inferno"](0)[:3], 255))
    ).all()
    middle = overlay(np.zeros((H, W)), signed=True)
    assert (middle == np.rint(np.multiply(colormaps["coolwarm"](0.5)[:3], 255))).all()


def test_each_sample_has_its_own_scale():
    np.testing.assert_array_equal(overlay(BLOB * 1000, GREY), overlay(BLOB, GREY))


MULTI = RNG.normal(size=(5, H, W))


@pytest.mark.parametrize(
    ("raw", "same"),
    [
        (GREY[None], GREY),
        (GREY[None, None], GREY),
        (GREY[..., None], GREY),
        (COLOUR.transpose(2, 0, 1), COLOUR),
        (COLOUR.transpose(2, 0, 1)[None], COLOUR),
        (MULTI, MULTI.mean(axis=0)),
        (MULTI[:2], MULTI[:2].mean(axis=0)),
        (torch.tensor(MULTI), MULTI.mean(axis=0)),
        (torch.tensor(GREY)[None], GREY),
        (torch.tensor(MULTI[:1], requires_grad=True), MULTI[0]),
        (torch.tensor(GREY).to(torch.bfloat16), torch.tensor(GREY).to(torch.bfloat16).float()),
        (GREY > 100, (GREY > 100).astype(float)),
        (GREY.tolist(), GREY),
    ],
)
@pytest.mark.parametrize("size", [(H, W), (4, 5)])
def test_every_layout_shows_the_same_picture(raw, same, size):
    values = BLOB[:: H // size[0], :: W // size[1]][: size[0], : size[1]]
    np.testing.assert_array_equal(overlay(values, raw), overlay(values, same))


def test_the_map_decides_between_two_readings():
    square = RNG.integers(0, 256, (3, 9, 3), np.uint8)
    first = overlay(np.zeros((9, 3)), square)
    np.testing.assert_array_equal(first, square.transpose(1, 2, 0))
    last = overlay(np.zeros((3, 9)), square)
    np.testing.assert_array_equal(last, square)
    rgba = RNG.normal(size=(8, 9, 4))  # here truly eight channels
    np.testing.assert_array_equal(overlay(np.zeros((9, 4)), rgba), shown(rgba.mean(axis=0)))


@pytest.mark.parametrize(
    "shape", [(3, 9, 3), (3, 3, 3), (1, 9, 3), (1, 9, 1), (64, 64, 4), (64, 64, 2)]
)
def test_shapes_that_can_be_read_in_two_ways(shape):
    size = (3, 3) if shape == (3, 3, 3) else (5, 5)
    with pytest.raises(InputError, match="channels first or last"):
        overlay(np.zeros(size), np.zeros(shape))


@pytest.mark.parametrize("shape", [(5,), (), (2, 3, 8, 8), (1, 2, 2, 8, 8)])
def test_what_is_no_image(shape):
    with pytest.raises(InputError, match="raw input of a 2D map"):
        overlay(BLOB, np.zeros(shape))


def test_what_is_no_number():
    with pytest.raises(InputTypeError, match="The raw input is str"):
        overlay(BLOB, "image.png")


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_opacity_out_of_range(opacity):
    with pytest.raises(InputError, match="opacity is between 0"):
        overlay(BLOB, opacity=opacity)


def test_inputs_are_not_changed():
    values, raw = BLOB.copy() - 0.5, GREY.copy()
    overlay(values, raw)
    grey_picture(values)
    np.testing.assert_array_equal(values, BLOB - 0.5)
    np.testing.assert_array_equal(raw, GREY)


def test_grey_pictures():
    assert grey_picture(torch.tensor([[0.0, 1.0, 4.0]])).tolist() == [[0, 64, 255]]
    signed = np.array([[-4.0, 0.0, 1.0]])  # the top is 1 + 0.999 * 3
    assert grey_picture(signed).tolist() == [[0, 128, 159]]
    assert grey_picture(np.zeros((1, 2))).tolist() == [[0, 0]]
    assert grey_picture(np.zeros((1, 2)), signed=True).tolist() == [[128, 128]]


def test_neither_pyplot_nor_the_writers_libraries_are_imported():
    code = (
        "import sys, numpy as np, medcam.views, medcam.files, medcam.explanation.single_file\n"
        "early = {'matplotlib', 'PIL', 'nibabel'} & set(sys.modules)\n"
        "medcam.views.overlay(np.ones((2, 2)))\n"
        "assert not early, early\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603  the code is above
