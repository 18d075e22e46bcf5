"""A PNG holds the pixels unchanged, as read back with Pillow and scikit-image."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from PIL import Image
from skimage import io

from medcam.errors import InputError, SaveError
from medcam.files import save_png

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(17, 23, 3), (17, 23), (1, 1, 3)])
def test_pixels_survive(tmp_path, shape):
    pixels = RNG.integers(0, 256, shape, np.uint8)
    path = save_png(tmp_path / "new" / "a.png", pixels)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == ("RGB" if len(shape) == 3 else "L")
        np.testing.assert_array_equal(np.asarray(image), pixels)
    np.testing.assert_array_equal(io.imread(path).reshape(shape), pixels)


def test_a_view_with_negative_strides(tmp_path):
    pixels = RNG.integers(0, 256, (5, 6, 3), np.uint8)[::-1, ::-1]
    np.testing.assert_array_equal(io.imread(save_png(tmp_path / "a.png", pixels)), pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_values_that_are_not_a_picture(tmp_path, pixels):
    with pytest.raises(InputError, match=r"uint8 \[H, W, 3\]"):
        save_png(tmp_path / "a.png", pixels)
    assert list(tmp_path.iterdir()) == []


def test_another_ending(tmp_path):
    with pytest.raises(InputError, match=r"\.png"):
        save_png(tmp_path / "a.jpg", np.zeros((4, 4, 3), np.uint8))


def test_a_full_disk_keeps_the_old_picture(tmp_path, monkeypatch):
    old = np.full((4, 4, 3), 7, np.uint8)
    path = save_png(tmp_path / "a.png", old)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SaveError, match="No space left"):
        save_png(path, old + 1)
    np.testing.assert_array_equal(io.imread(path), old)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
