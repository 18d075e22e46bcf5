""".npy files hold numbers only; the caller decides what the first axis is."""

from __future__ import annotations

import numpy as np
import pytest

from medcam.errors import InputError
from medcam.files import read_image

RNG = np.random.default_rng(0)


def write(path, values, **options):
    np.save(path, values, **options)
    return path


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "u4", "i8", "f2", "f4", ">f8", "?"])
def test_two_axes_are_one_channel(tmp_path, dtype):
    values = RNG.integers(0, 2, (4, 5)).astype(dtype)
    image = read_image(write(tmp_path / "a.npy", values))
    np.testing.assert_array_equal(image.array, values[None])
    assert image.array.dtype == np.dtype(dtype).newbyteorder("=")


def test_three_axes_are_what_the_caller_says(tmp_path):
    values = RNG.normal(size=(3, 4, 5))
    path = write(tmp_path / "a.npy", np.asfortranarray(values))
    with pytest.raises(InputError, match=r"\[3, 4, 5\]: say .*as_channels=True.*as_channels=False"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, as_channels=True).array, values)
    np.testing.assert_array_equal(read_image(path, as_channels=False).array, values[None])
    np.testing.assert_array_equal(read_image(path, volume=1).array, values[1:2])


def test_four_axes_need_channels(tmp_path):
    values = RNG.normal(size=(2, 3, 4, 5))
    path = write(tmp_path / "a.npy", values)
    for options in ({}, {"as_channels": False}):
        with pytest.raises(InputError, match=r"first axis is the channels .*volume=0, \.\.\.\)\."):
            read_image(path, **options)
    np.testing.assert_array_equal(read_image(path, as_channels=True).array, values)
    np.testing.assert_array_equal(read_image(path, volume=1).array, values[1:2])


@pytest.mark.parametrize("shape", [(), (5,), (1, 1, 2, 3, 4)])
def test_other_numbers_of_axes(tmp_path, shape):
    with pytest.raises(InputError, match="an array is"):
        read_image(write(tmp_path / "a.npy", np.zeros(shape)), as_channels=True)


def test_an_empty_array(tmp_path):
    with pytest.raises(InputError, match="is empty"):
        read_image(write(tmp_path / "a.npy", np.zeros((0, 5))))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_pickles_are_never_run(tmp_path):
    path = write(tmp_path / "a.npy", np.array([[Bomb()]], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy' cannot be read as a \.npy array: Object arrays"):
        read_image(path)


@pytest.mark.parametrize("values", [np.ones((4, 5), complex), np.array([["a", "b"]])])
def test_values_that_are_not_real_numbers(tmp_path, values):
    with pytest.raises(InputError, match="real numbers are needed"):
        read_image(write(tmp_path / "a.npy", values))


def test_files_that_are_cut_off_or_too_long(tmp_path):
    path = write(tmp_path / "a.npy", np.ones((4, 5)))
    content = path.read_bytes()
    for changed, message in (
        (b"", "cannot be read"),
        (content[:40], "cannot be read"),
        (content[:-8], "cannot be read"),
        (b"PK" + content[2:], "cannot be read"),
        (content + b"\0", "more than one array"),
    ):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=message):
            read_image(path)
