"""NIfTI images are read unchanged, with the geometry that SimpleITK gives them."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from medcam.errors import InputError, MedcamError, MedcamWarning
from medcam.files import read_image
from support.images import AFFINES, assert_agrees, numbers, rotated, write_nifti

SHAPE = (5, 6, 7)
DEGREES = st.tuples(*[st.floats(-180, 180)] * 3)
SIZES = st.tuples(*[st.floats(0.2, 6).flatmap(lambda s: st.sampled_from([s, -s]))] * 3)
ORIGINS = st.tuples(*[st.floats(-500, 500)] * 3)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_simpleitk_agrees_on_numbers_and_points(tmp_path, name, ending):
    values = numbers(SHAPE)
    path = write_nifti(tmp_path / f"a{ending}", values, AFFINES[name])
    image = read_image(path)
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(image.array, values[None])
    np.testing.assert_array_equal(image.affine, nib.load(path).affine)
    assert_agrees(image, path)


@given(DEGREES, SIZES, ORIGINS, st.integers(0, 2**16))
def test_simpleitk_agrees_for_any_affine(tmp_path_factory, degrees, sizes, origin, seed):
    affine = rotated(degrees, sizes, origin)
    path = tmp_path_factory.mktemp("any") / "a.nii"
    assert_agrees(read_image(write_nifti(path, numbers(SHAPE), affine)), path, seed=seed)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_versions_and_byte_orders(tmp_path, kind, order, affine):
    values = numbers(SHAPE, np.float32)
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.float32)
    nib.save(kind(values, affine, header), tmp_path / "a.nii.gz")
    image = read_image(tmp_path / "a.nii.gz")
    assert image.array.dtype.isnative
    np.testing.assert_array_equal(image.array[0], values)
    np.testing.assert_allclose(image.affine, affine, rtol=1e-6)


@pytest.mark.parametrize("name", AFFINES)
def test_one_volume_of_four_axes(tmp_path, name):
    values = numbers((*SHAPE, 3))
    path = write_nifti(tmp_path / "a.nii.gz", values, AFFINES[name])
    for volume in range(3):
        image = read_image(path, volume=volume)
        np.testing.assert_array_equal(image.array, values[None, ..., volume])
    channels = read_image(path, as_channels=True)
    assert channels.array.shape == (3, *SHAPE)
    for channel in range(3):
        assert_agrees(channels, path, channel=channel)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"3 volumes \(4th axis\).*volume=0 to 2.*as_channels=True"),
        ({"as_channels": False}, r"3 volumes \(4th axis\)"),
        ({"volume": 3}, "no volume 3: there are 3"),
        ({"volume": -1}, "no volume -1"),
        ({"volume": "0"}, "give an int"),
        ({"volume": True}, "give an int"),
        ({"volume": 0, "as_channels": True}, "give one of them"),
    ],
)
def test_what_four_axes_mean_is_not_guessed(tmp_path, options, message, affine):
    path = write_nifti(tmp_path / "a.nii", numbers((*SHAPE, 3)), affine)
    with pytest.raises(InputError, match=message):
        read_image(path, **options)


def test_vectors_are_channels_if_the_caller_says_so(tmp_path, affine):
    values = numbers((*SHAPE, 1, 3), np.float32)
    path = write_nifti(tmp_path / "a.nii", values, affine, intent_code=1007)
    with pytest.raises(InputError, match=r"3 volumes \(5th axis"):
        read_image(path)
    image = read_image(path, as_channels=True)
    for channel in range(3):
        assert_agrees(image, path, channel=channel)


def test_two_axes_beyond_space_are_refused(tmp_path, affine):
    path = write_nifti(tmp_path / "a.nii", numbers((*SHAPE, 2, 3)), affine)
    with pytest.raises(InputError, match="more than one axis beyond space"):
        read_image(path, as_channels=True)


def test_a_4th_axis_of_length_1_is_dropped(tmp_path, affine):
    values = numbers((*SHAPE, 1))
    image = read_image(write_nifti(tmp_path / "a.nii", values, affine))
    np.testing.assert_array_equal(image.array[0], values[..., 0])


@pytest.mark.parametrize("shape", [(5, 6, 1), (5, 6), (5, 1, 7), (1, 6, 7)])
def test_a_slice_keeps_its_place(tmp_path, shape, affine):
    values = numbers(shape)
    path = write_nifti(tmp_path / "a.nii.gz", values, affine)
    image = read_image(path)
    np.testing.assert_array_equal(image.array, values[None])
    np.testing.assert_array_equal(image.affine, np.float32(affine))
    assert len(image.spacing) == len(shape)
    np.testing.assert_allclose(image.spacing, (0.7, 1.1, 2.5)[: len(shape)], rtol=1e-6)
    if len(shape) == 3:
        assert_agrees(image, path)


def test_colours_are_channels(tmp_path, affine):
    colour = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    values = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
    nib.save(nib.Nifti1Image(values.view(colour)[..., 0], affine), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    for channel in range(3):
        assert_agrees(image, tmp_path / "a.nii", channel=channel)


@pytest.mark.parametrize(("unit", "scale"), [("micron", 1e-3), ("meter", 1e3), ("mm", 1)])
def test_every_unit_becomes_millimetres(tmp_path, unit, scale, affine):
    image = nib.Nifti1Image(numbers(SHAPE), affine * [[0.1], [0.1], [0.1], [1]])
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(read.affine[:3], affine[:3] * 0.1 * scale, rtol=1e-5)
    reread = sitk.ReadImage(str(tmp_path / "a.nii"))
    np.testing.assert_allclose(reread.GetSpacing(), read.spacing, rtol=1e-5)
    np.testing.assert_allclose(reread.GetOrigin(), read.affine[:3, 3] * (-1, -1, 1), rtol=1e-5)


def test_the_scale_of_the_values_is_honoured(tmp_path, affine):
    values = numbers(SHAPE)
    image = nib.Nifti1Image(values, affine)
    image.header.set_slope_inter(0.25, -1024)
    image.header.set_data_dtype(np.int16)
    image.to_filename(tmp_path / "scaled.nii")
    with (tmp_path / "scaled.nii").open("r+b") as stream:  # nibabel wrote another slope
        stream.seek(112)
        stream.write(np.float32([0.25, -1024]).tobytes())
        stream.seek(352)
        stream.write(values.tobytes("F"))
    read = read_image(tmp_path / "scaled.nii")
    np.testing.assert_array_equal(read.array[0], values * 0.25 - 1024)
    assert_agrees(read, tmp_path / "scaled.nii")


def test_a_sheared_affine_is_kept(tmp_path, affine):
    affine[0, 1] += 0.4
    path = write_nifti(tmp_path / "a.nii", numbers(SHAPE), affine)
    np.testing.assert_array_equal(read_image(path).affine, np.float32(affine))


def test_the_qform_alone_is_enough(tmp_path, affine):
    image = nib.Nifti1Image(numbers(SHAPE), affine)
    image.set_qform(affine, 1)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    assert_agrees(read_image(tmp_path / "a.nii"), tmp_path / "a.nii")


def test_a_file_without_codes_has_no_affine(tmp_path):
    image = nib.Nifti1Image(numbers(SHAPE), None)
    image.header["pixdim"][1:4] = 0.5, 0.6, 2
    nib.save(image, tmp_path / "a.nii")
    with pytest.warns(MedcamWarning, match="left and right are not known"):
        read = read_image(tmp_path / "a.nii")
    assert read.affine is None
    np.testing.assert_allclose(read.spacing, (0.5, 0.6, 2), rtol=1e-6)


def test_voxels_without_a_size_are_refused(tmp_path, affine):
    image = nib.Nifti1Image(numbers(SHAPE), affine)
    image.set_qform(affine, 1)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    with (tmp_path / "a.nii").open("r+b") as stream:
        stream.seek(80)  # pixdim[1]
        stream.write(np.float32(0).tobytes())
    with pytest.raises(InputError, match="geometry is damaged"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_nonfinite_values_raise_or_warn(tmp_path, bad, affine):
    values = numbers(SHAPE, np.float64)
    values[1, 2, 3] = values[0, 0, 0] = bad
    path = write_nifti(tmp_path / "a.nii", values, affine)
    with pytest.raises(InputError, match=r"2 of 210 values.*fill=0"):
        read_image(path)
    with pytest.warns(MedcamWarning, match=r"2 of 210 values.*are now -5"):
        filled = read_image(path, fill=-5)
    assert filled.array[0, 1, 2, 3] == filled.array[0, 0, 0, 0] == -5
    assert filled.array[0, 4, 5, 6] == values[4, 5, 6]
    with pytest.raises(InputError, match="not a finite number"):
        read_image(path, fill=np.nan)


def test_complex_values_are_refused(tmp_path, affine):
    path = write_nifti(tmp_path / "a.nii", numbers(SHAPE, np.complex64), affine)
    with pytest.raises(InputError, match="complex64: real numbers"):
        read_image(path)


def test_a_singular_affine(tmp_path, affine):
    image = nib.Nifti1Image(numbers(SHAPE), affine)
    image.header["srow_x"] = 0
    image = nib.Nifti1Image(numbers(SHAPE), None, image.header)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"The affine of '.*a\.nii' cannot place voxels"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kept", [0, 3, 200, 400, -1])
def test_a_file_that_is_cut_off(tmp_path, name, kept, affine):
    path = write_nifti(tmp_path / name, numbers(SHAPE), affine)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=rf"{name}' (cannot be read|is not a NIfTI)"):
        read_image(path)


def test_a_checksum_that_is_wrong(tmp_path, affine):
    path = write_nifti(tmp_path / "a.nii.gz", numbers(SHAPE), affine)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the checksum, after all voxels
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as NIfTI: CRC check failed"):
        read_image(path)


@given(st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_header_raises_a_medcam_error_or_is_readable(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("damaged") / "a.nii"
    content = bytearray(DAMAGED)
    for offset, value in changes:
        content[offset] = value
    path.write_bytes(content)
    try:
        image = read_image(path)
    except (MedcamError, MedcamWarning):
        return
    assert np.isfinite(np.float32(image.array)).all()
    assert image.affine is None or np.isfinite(image.affine).all()


DAMAGED = nib.Nifti1Image(numbers((3, 4, 5)), rotated((20, -11, 33), (0.9, 0.8, 3))).to_bytes()


def test_other_files_and_no_file(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"not an image")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"not an image"))
    (tmp_path / "folder.nii").mkdir()
    for name, message in {
        "a.nii": "not a NIfTI file",
        "b.nii.gz": "not a NIfTI file",
        "c.nii": "does not exist",
        "folder.nii": "is a folder",
        "d.dcm": "Convert a DICOM series",
        "e.niy": r"Image format '\.niy' does not exist.*\.nii",
        "f": "Image format 'f' does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            read_image(tmp_path / name)


def test_the_array_is_a_writable_copy(tmp_path, affine):
    path = write_nifti(tmp_path / "a.nii", numbers(SHAPE), affine)
    before = path.read_bytes()
    image = read_image(path)
    image.array[:] = 0  # neither read-only nor a view of the file
    assert path.read_bytes() == before
    assert image.array.flags.c_contiguous
    assert image.path == path
    assert image.space == SHAPE
