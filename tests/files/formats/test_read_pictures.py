"""Pictures are read without losing bits; those that Pillow would change are refused."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from medcam.errors import InputError, MedcamWarning
from medcam.files import read_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), np.uint8)
STACK = RNG.integers(0, 60000, (4, 5, 7), np.uint16)


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
def test_grey_and_colour(tmp_path, ending):
    for values, expected in ((GREY, GREY[None]), (COLOUR, COLOUR.transpose(2, 0, 1))):
        Pillow.fromarray(values).save(tmp_path / f"a{ending}")
        image = read_image(tmp_path / f"a{ending}")
        np.testing.assert_array_equal(image.array, expected)
        assert image.affine is None
        assert image.spacing is None


def test_jpeg_is_what_pillow_decodes(tmp_path):
    ramp = np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8)
    for values in (ramp, np.stack([ramp, 255 - ramp, ramp // 2], -1)):
        Pillow.fromarray(values).save(tmp_path / "a.jpg", quality=95)
        image = read_image(tmp_path / "a.jpg")
        expected = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        assert np.abs(image.array.astype(int) - expected).max() < 16
        with Pillow.open(tmp_path / "a.jpg") as reread:
            np.testing.assert_array_equal(image.array, np.moveaxis(np.atleast_3d(reread), -1, 0))


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", ">u2", "i2", "u4", "i4", "f4"])
def test_numbers_of_every_kind_in_tiff(tmp_path, dtype):
    kind = np.dtype(dtype)
    low, high = (-1e30, 1e30) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    values = np.array([[low, high, 0, 1], [5, 6, 7, 100]], kind)
    order = ">" if dtype.startswith(">") else "<"
    tifffile.imwrite(tmp_path / "a.tif", values.astype(kind.newbyteorder("=")), byteorder=order)
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array[0], values)
    assert image.array.dtype.isnative


def test_16_bit_png(tmp_path):
    Pillow.fromarray(STACK[0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array, STACK[:1])


def test_what_pages_mean_is_not_guessed(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    with pytest.raises(InputError, match=r"4 pages .as_channels=False: they are slices.*volume=0"):
        read_image(tmp_path / "a.tif")
    slices = read_image(tmp_path / "a.tif", as_channels=False).array
    np.testing.assert_array_equal(slices, STACK[None])
    channels = read_image(tmp_path / "a.tif", as_channels=True).array
    np.testing.assert_array_equal(channels, STACK)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", volume=2).array, STACK[2:3])
    with pytest.raises(InputError, match="no volume 4: there are 4"):
        read_image(tmp_path / "a.tif", volume=4)
    with pytest.raises(InputError, match="give one of them"):
        read_image(tmp_path / "a.tif", volume=1, as_channels=True)


def test_slices_in_colour(tmp_path):
    pages = np.stack([COLOUR, 255 - COLOUR])
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="rgb")
    image = read_image(tmp_path / "a.tif", as_channels=False)
    np.testing.assert_array_equal(image.array, pages.transpose(3, 0, 1, 2))
    with pytest.raises(InputError, match="with 3 colours each"):
        read_image(tmp_path / "a.tif", as_channels=True)
    second = read_image(tmp_path / "a.tif", volume=1).array
    np.testing.assert_array_equal(second, pages[1].transpose(2, 0, 1))


@pytest.mark.parametrize(("axes", "what"), [("CYX", "4 channels"), ("TYX", "4 frames")])
def test_pages_that_say_they_are_no_slices(tmp_path, axes, what):
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": axes})
    with pytest.raises(InputError, match=f"its pages are {what}, not slices"):
        read_image(tmp_path / "a.tif", as_channels=False)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", as_channels=True).array, STACK)


def test_pages_that_say_they_are_slices(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "ZYX"})
    image = read_image(tmp_path / "a.tif", as_channels=False)
    np.testing.assert_array_equal(image.array, STACK[None])


def test_pages_of_different_sizes(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(STACK[0])
        file.write(STACK[0, :3, :4])
    with pytest.raises(InputError, match=r"differ: \[1, 3, 4\], \[1, 5, 7\]"):
        read_image(tmp_path / "a.tif", as_channels=False)
    second = read_image(tmp_path / "a.tif", volume=1)
    np.testing.assert_array_equal(second.array[0], STACK[0, :3, :4])


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_colours_of_16_bits_are_not_cut_to_8(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, STACK[:3].transpose(1, 2, 0), photometric="rgb")
    else:
        Pillow.fromarray(COLOUR).save(path)
        content = bytearray(path.read_bytes())
        content[24] = 16  # only in the header: Pillow cannot write 16 bits
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        path.write_bytes(content)
    with pytest.raises(InputError, match="16 bits per colour, of which only 8 would be read"):
        read_image(path)


def test_palettes_are_looked_up(tmp_path):
    indices = Pillow.fromarray(GREY % 3).convert("P")
    indices.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    indices.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    table = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    np.testing.assert_array_equal(image.array, table[GREY % 3].transpose(2, 0, 1))


def test_an_opaque_alpha_channel_is_left_out_and_a_transparent_one_refused(tmp_path):
    alpha = np.full((5, 7, 1), 255, np.uint8)
    Pillow.fromarray(np.concatenate([COLOUR, alpha], 2)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array, COLOUR.transpose(2, 0, 1))
    alpha[2, 3] = 254
    Pillow.fromarray(np.concatenate([COLOUR, alpha], 2)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="transparent in places"):
        read_image(tmp_path / "a.png")


def test_black_and_white_is_0_and_1(tmp_path):
    Pillow.fromarray(GREY > 100).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.array.dtype == np.uint8
    np.testing.assert_array_equal(image.array[0], GREY > 100)


def test_other_colour_spaces_are_refused(tmp_path):
    Pillow.new("CMYK", (7, 5)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="colour space CMYK"):
        read_image(tmp_path / "a.jpg")


def test_many_bits_from_white_to_black_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], photometric="miniswhite")
    with pytest.raises(InputError, match="16 bits per pixel and 0 as white"):
        read_image(tmp_path / "a.tif")


def test_an_orientation_tag_is_not_followed_silently(tmp_path):
    exif = Pillow.Exif()
    exif[274] = 6
    Pillow.fromarray(GREY).save(tmp_path / "a.jpg", exif=exif)
    with pytest.warns(MedcamWarning, match="as they are stored"):
        assert read_image(tmp_path / "a.jpg").array.shape == (1, 5, 7)
    Pillow.fromarray(GREY).save(tmp_path / "a.tif", tiffinfo={274: 6})
    with pytest.raises(InputError, match="orientation tag"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("kept", [0, 10, 0.5])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow says so too
def test_a_file_that_is_cut_off(tmp_path, ending, kept):
    path = tmp_path / f"a{ending}"
    Pillow.fromarray(RNG.integers(0, 256, (40, 50), np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept != 0.5 else len(content) // 2])
    with pytest.raises(InputError, match=rf"a\{ending}' cannot be read as PNG, JPEG, TIFF or BMP"):
        read_image(path)


def test_a_damaged_png_is_noticed_by_its_checksum(tmp_path):
    Pillow.fromarray(GREY).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    # in the compressed pixels, which can still be unpacked
    content[content.index(b"IEND") - 5] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "a.png")


def test_another_volume_than_the_only_one(tmp_path):
    Pillow.fromarray(GREY).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", volume=0).array, GREY[None])
    with pytest.raises(InputError, match="no volume 1: there are 1"):
        read_image(tmp_path / "a.png", volume=1)
