"""What a header announces is compared with the file before memory is taken for it."""

from __future__ import annotations

import contextlib
import gzip
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medcam.errors import InputError, MedcamWarning
from medcam.files import memory, read_image
from medcam.files.formats.nifti import save_nifti
from support.images import AFFINES, itk_image, numbers, write_nifti

SHAPE = (7, 6, 5)
MEGABYTE = 2**20


def refused(path, match):
    """Check that a file is refused, and return the bytes that it took at most."""
    tracemalloc.start()
    with pytest.raises(InputError, match=match) as error:
        read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(error.value)
    return peak


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_nifti_that_announces_more_than_it_holds(tmp_path, ending):
    header = nib.Nifti1Header()
    header.set_data_shape((1000, 900, 800))
    header.set_data_dtype(np.int16)
    header["vox_offset"] = 352
    content = header.binaryblock + b"\0" * 424
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    assert refused(path, r"bytes are announced|needs .* GiB") < 10 * MEGABYTE


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_nifti_that_holds_more_than_it_announces(tmp_path, ending, affine):
    write_nifti(tmp_path / "a.nii", numbers(SHAPE), affine)
    content = (tmp_path / "a.nii").read_bytes() + bytes(200 * MEGABYTE)
    path = tmp_path / f"bomb{ending}"
    path.write_bytes(gzip.compress(content, 1) if ending == ".nii.gz" else content)
    limit = len(path.read_bytes()) + 10 * MEGABYTE
    assert refused(path, "more bytes than are announced|follow after") < limit


def test_zeros_after_the_compressed_stream_are_padding(tmp_path, affine):
    path = write_nifti(tmp_path / "a.nii.gz", numbers(SHAPE), affine)
    path.write_bytes(path.read_bytes() + bytes(512))
    np.testing.assert_array_equal(read_image(path).array[0], numbers(SHAPE))


@pytest.mark.parametrize(("field", "value"), [("vox_offset", np.nan), ("vox_offset", 12)])
def test_voxels_that_begin_nowhere(tmp_path, field, value, affine):
    path = write_nifti(tmp_path / "a.nii", numbers(SHAPE), affine)
    header = nib.Nifti1Header(path.read_bytes()[:348], check=False)
    header[field] = value
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])
    refused(path, "begin at byte")


def test_every_bit_of_a_compressed_metaimage_counts(tmp_path):
    values = np.arange(24 * 16 * 20).reshape(24, 16, 20).astype("int16") % 997
    path = tmp_path / "ct.mha"
    sitk.WriteImage(sitk.GetImageFromArray(values.T), str(path), useCompression=True)
    good = path.read_bytes()
    for place in range(good.index(b"LOCAL\n") + 6, len(good), 25):
        bad = bytearray(good)
        bad[place] ^= 1
        path.write_bytes(bad)
        refused(path, "compressed")


def test_every_bit_of_a_compressed_nrrd_counts(tmp_path, affine):
    path = tmp_path / "ct.nrrd"
    sitk.WriteImage(itk_image(numbers((24, 16, 20)), affine), str(path), useCompression=True)
    good = path.read_bytes()
    # the first ten bytes of gzip's header hold the time and the system, which mean nothing
    for place in range(good.index(b"\n\n") + 12, len(good), 120):
        bad = bytearray(good)
        bad[place] ^= 1
        path.write_bytes(bad)
        try:
            np.testing.assert_array_equal(read_image(path).array[0], numbers((24, 16, 20)))
        except InputError:
            continue


def assert_refused_with(path, found, other):
    """Check that an image is refused, without memory, after a change of its header."""
    sitk.WriteImage(itk_image(numbers(SHAPE), AFFINES["oblique"]), str(path))
    content = path.read_bytes()
    assert found in content
    path.write_bytes(content.replace(found, other, 1))
    assert refused(path, rf"a\{path.suffix}' (cannot|needs)") < 5 * MEGABYTE


HEADERS = [
    (b"NDims = 3", b"NDims = -1"),
    (b"NDims = 3", b"NDims = 1000000"),
    (b"NDims = 3", b"NDims = 5"),
    (b"DimSize = 7 6 5", b"DimSize = 7 6"),
    (b"DimSize = 7 6 5", b"DimSize = 7 6 0"),
    (b"DimSize = 7 6 5", b"DimSize = 7 6 -5"),
    (b"DimSize = 7 6 5", b"DimSize = 800 800 800"),
    (b"DimSize = 7 6 5", b"DimSize = 7 6 4"),
    (b"DimSize = 7 6 5", b"DimSize = 99999999999999 6 5"),
    (b"MET_SHORT", b"MET_OTHER"),
    (b"MET_SHORT", b"MET_FLOAT"),
    (b"Offset = ", b"Offset = nan "),
    (b"ElementSpacing = ", b"ElementSpacing = inf "),
    (b"ElementSpacing = ", b"ElementSpacing = 1 "),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = LIST"),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = gone.raw"),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = /etc/passwd"),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = %99999999d.raw 1 9 1"),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = %s.raw 1 9 1"),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = a%d.raw 1 999999999 1"),
    (b"ElementDataFile = LOCAL", b"HeaderSize = 99\nElementDataFile = LOCAL"),
    (b"CompressedData = False", b"CompressedData = True"),
    (b"ObjectType = Image", b"ObjectType = Tube"),
    (b"ObjectType = Image", b"x" * 300_000),
]


@pytest.mark.parametrize(("found", "other"), HEADERS, ids=range(len(HEADERS)))
def test_a_metaimage_whose_header_is_wrong_never_reaches_itk(tmp_path, found, other):
    assert_refused_with(tmp_path / "a.mha", found, other)


NRRD_HEADERS = [
    (b"dimension: 3", b"dimension: -1"),
    (b"dimension: 3", b"dimension: 16"),
    (b"sizes: 7 6 5", b"sizes: 7 6"),
    (b"sizes: 7 6 5", b"sizes: 7 6 4"),
    (b"sizes: 7 6 5", b"sizes: 900 900 900"),
    (b"type: short", b"type: block"),
    (b"type: short", b"type: double"),
    (b"encoding: raw", b"encoding: gzip"),
    (b"encoding: raw", b"encoding: hex"),
    (b"encoding: raw", b"encoding: other"),
    (b"encoding: raw", b"encoding: raw\nbyte skip: 9999999999"),
    (b"encoding: raw", b"encoding: raw\nbyte skip: -7"),
    (b"encoding: raw", b"encoding: raw\nline skip: 99999"),
    (b"encoding: raw", b"encoding: raw\ndata file: gone.raw"),
    (b"encoding: raw", b"encoding: raw\ndata file: /etc/passwd"),
    (b"endian: little", b"endian: middle"),
    (b"kinds: domain domain domain", b"kinds: domain vector list"),
    (b"kinds: domain domain domain", b"kinds: domain domain"),
    (b"space directions: (", b"space directions: (nan,"),
    (b"space: left", b"space: " + b"x" * 300_000),
]


@pytest.mark.parametrize(("found", "other"), NRRD_HEADERS, ids=range(len(NRRD_HEADERS)))
def test_an_nrrd_whose_header_is_wrong_never_reaches_itk(tmp_path, found, other):
    assert_refused_with(tmp_path / "a.nrrd", found, other)


def test_what_exceeds_the_memory_of_the_machine_is_told(tmp_path, monkeypatch, affine):
    path = write_nifti(tmp_path / "a.nii.gz", numbers(SHAPE), affine)
    monkeypatch.setattr(memory, "available_bytes", lambda: 100)
    refused(path, r"a\.nii\.gz' needs 0\.0 GiB of memory")
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    assert read_image(path).space == SHAPE


def test_the_limit_of_a_process_is_its_memory():
    code = (
        "import resource; from medcam.files.memory import available_bytes as known\n"
        "before = known(); resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))\n"
        "print(min(before, 2**34) == known())"
    )
    out = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "True"


@pytest.mark.parametrize("value", [np.nan, np.inf, -2.0, 0.0])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_extents_that_are_no_extents_are_none(tmp_path, place, value):
    """With both codes 0 they mean nothing, so the image is read without a spacing."""
    path = write_nifti(tmp_path / "a.nii", numbers(SHAPE), np.eye(4))
    header = nib.Nifti1Header(path.read_bytes()[:348], check=False)
    header["sform_code"], header["qform_code"] = 0, 0
    header["pixdim"][place] = value
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])
    with pytest.warns(MedcamWarning, match="does not say where"):
        image = read_image(path)
    assert image.spacing is None


@pytest.mark.parametrize(
    ("value", "written"),
    [(np.nan, 1.1), (np.inf, 1.1), (-2.0, 2.0), (0.0, 1.0)],  # nibabel mends the last two
)
def test_a_damaged_extent_of_a_reference_is_not_copied(tmp_path, value, written, affine):
    path = write_nifti(tmp_path / "a.nii", numbers(SHAPE), affine)
    header = nib.Nifti1Header(path.read_bytes()[:348], check=False)
    header["pixdim"][2] = value
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])
    save_nifti(tmp_path / "map.nii.gz", np.ones(SHAPE), path)
    saved = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(saved.header.get_zooms(), (0.7, written, 2.5), rtol=1e-6)
    np.testing.assert_array_equal(saved.affine, np.float32(affine))


def test_damaged_references_are_errors_of_ours(tmp_path, affine):
    path = write_nifti(tmp_path / "a.nii.gz", numbers(SHAPE), affine)
    content = path.read_bytes()
    for bad in (content[:60], b"", content[:40] + b"\xff" * 20 + content[60:]):
        path.write_bytes(bad)
        with pytest.raises(InputError, match="cannot be read"):
            save_nifti(tmp_path / "map.nii.gz", np.ones(SHAPE), path)


def test_a_flipped_bit_in_an_arrays_header(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    good = (tmp_path / "a.npy").read_bytes()
    for place in range(good.index(b"\n")):
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            (tmp_path / "a.npy").write_bytes(bad)
            with contextlib.suppress(InputError):  # any other error fails
                assert read_image(tmp_path / "a.npy").array.size == 16


def test_an_array_that_announces_more_than_it_holds(tmp_path):
    with (tmp_path / "a.npy").open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (60_000, 60_000)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(bytes(1000))
    assert refused(tmp_path / "a.npy", "bytes are announced") < 5 * MEGABYTE


@pytest.mark.parametrize("name", ["a" * 5000 + ".nii", "a\0b.nii.gz"])
def test_impossible_paths(name):
    with pytest.raises(InputError, match="does not exist") as error:
        read_image(name)
    assert len(str(error.value)) < 600


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a device of Unix")
@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_a_device_is_no_file_of_voxels(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_text(
        "NDims = 2\nDimSize = 2 2\nElementType = MET_UCHAR\nCompressedData = True\n"
        "ElementDataFile = /dev/zero\n"
        if ending == ".mhd"
        else "NRRD0004\ntype: uchar\ndimension: 2\nsizes: 2 2\nencoding: raw\nline skip: 1\n"
        "data file: /dev/zero\n"
    )
    assert refused(path, "no regular file") < 5 * MEGABYTE


@pytest.mark.parametrize("padding", [b"\n", b"\r\n", bytes(8)])
def test_padding_after_uncompressed_voxels(tmp_path, padding, affine):
    path = write_nifti(tmp_path / "a.nii", numbers(SHAPE), affine)
    path.write_bytes(path.read_bytes() + padding)
    np.testing.assert_array_equal(read_image(path).array[0], numbers(SHAPE))
    path.write_bytes(path.read_bytes() + b"x")
    refused(path, "follow after")
