"""A map has the geometry of its image in every format, or is refused with the reason."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image as Pillow

from medcam.errors import InputError, InputTypeError, MedcamWarning, SaveError
from medcam.files import Image, read_image, save_map
from medcam.files.formats.nifti import reference_for_shape, voxel_sizes
from support.images import (
    AFFINES,
    assert_agrees,
    itk_image,
    numbers,
    rotated,
    tolerance,
    write_nifti,
)

SHAPE = (5, 6, 7)
PLACED = [".nii.gz", ".nii", ".nrrd", ".mha"]
MAP = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


def source(folder, ending, affine, shape=SHAPE):
    """Write an image in the given format, and read it."""
    path = folder / f"image{ending}"
    if ending.startswith(".nii"):
        write_nifti(path, numbers(shape), affine)
    else:
        sitk.WriteImage(itk_image(numbers(shape), affine), str(path))
    return read_image(path)


@pytest.mark.parametrize(("before", "after"), [*itertools.product(PLACED, PLACED)])
@pytest.mark.parametrize("name", AFFINES)
def test_from_every_format_to_every_other(tmp_path, before, after, name):
    image = source(tmp_path, before, AFFINES[name])
    path = save_map(tmp_path / f"map{after}", MAP, image)
    saved = read_image(path)
    assert saved.array.dtype == np.float32
    np.testing.assert_array_equal(saved.array[0], MAP)
    np.testing.assert_allclose(saved.affine, image.affine, rtol=1e-6, atol=1e-6)
    assert_agrees(saved, path)


@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.floats(0.2, 6).flatmap(lambda s: st.sampled_from([s, -s]))] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.sampled_from(PLACED),
    st.sampled_from(PLACED),
)
@example((0, 1, 108.5), (1, 1, 1), (0, 0, 0), ".nrrd", ".nii.gz")  # was off by 1.07e-4 mm
@example((0, 0, 179.99), (6, 0.2, -3), (500, -500, 3), ".mha", ".nii")  # near half a turn
def test_any_affine_survives_any_way(tmp_path_factory, degrees, sizes, origin, before, after):
    folder = tmp_path_factory.mktemp("any")
    affine = rotated(degrees, sizes, origin)
    path = save_map(folder / f"map{after}", MAP, source(folder, before, affine))
    saved = read_image(path)
    corners = np.array([(x, y, z, 1) for x in (0, 4) for y in (0, 5) for z in (0, 6)]).T
    atol = tolerance(affine, SHAPE, before, after)
    np.testing.assert_allclose(saved.affine @ corners, affine @ corners, rtol=0, atol=atol)
    assert_agrees(saved, path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_itk_keeps_its_geometry_to_the_last_bit(tmp_path, ending, affine):
    image = source(tmp_path, ending, affine)
    before = sitk.ReadImage(str(image.path))
    after = sitk.ReadImage(str(save_map(tmp_path / f"map{ending}", MAP, image)))
    assert after.GetPixelID() == sitk.sitkFloat32
    assert after.GetOrigin() == before.GetOrigin()
    assert after.GetSpacing() == before.GetSpacing()
    assert after.GetDirection() == before.GetDirection()


def test_the_geometry_of_a_nifti_header_is_kept_bit_by_bit(tmp_path, affine):
    image = nib.Nifti1Image(numbers((*SHAPE, 3)), affine)
    image.set_sform(affine, 4)
    image.set_qform(AFFINES["oblique"], 1)  # another geometry, which is only in the header
    image.header["descrip"] = b"a name"
    image.header["cal_max"] = 12345
    nib.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii", volume=1)
    before = nib.load(tmp_path / "a.nii").header
    after = nib.load(save_map(tmp_path / "map.nii", MAP, read)).header
    for field in ("sform_code", "qform_code", "srow_x", "srow_z", "quatern_b", "qoffset_y"):
        np.testing.assert_array_equal(after[field], before[field])
    assert after.get_data_shape() == SHAPE
    assert after["cal_max"] == pytest.approx(np.abs(MAP).max(), rel=0.02)
    assert b"a name" not in after["descrip"].tobytes()


@pytest.mark.parametrize("unit", ["micron", "meter"])
def test_other_units_than_mm(tmp_path, unit, affine):
    image = nib.Nifti1Image(numbers(SHAPE), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii")
    for ending in PLACED:
        saved = read_image(save_map(tmp_path / f"map{ending}", MAP, read))
        np.testing.assert_allclose(saved.affine, read.affine, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(
            sitk.ReadImage(str(saved.path)).GetSpacing(), read.spacing, rtol=1e-5
        )
    scale = {"micron": 1e-3, "meter": 1e3}[unit]
    np.testing.assert_allclose(voxel_sizes(image), np.multiply((0.7, 1.1, 2.5), scale), rtol=1e-6)
    np.testing.assert_allclose(voxel_sizes(tmp_path / "a.nii"), read.spacing, rtol=1e-6)
    half = reference_for_shape(image, (5, 6, 14), SHAPE)
    np.testing.assert_allclose(np.linalg.norm(half[:3, 2]), 1.25 * scale, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 6, 1), (5, 6), (1, 6, 7)])
def test_a_slice_keeps_its_place(tmp_path, shape, affine):
    image = read_image(write_nifti(tmp_path / "a.nii.gz", numbers(shape), affine))
    values = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    flat = values.reshape([extent for extent in shape if extent > 1])
    for map_values in (values, flat):
        saved = read_image(save_map(tmp_path / "map.nii.gz", map_values, image))
        assert saved.array.shape == (1, *shape)
        np.testing.assert_array_equal(saved.array[0], values)
        np.testing.assert_array_equal(saved.affine, image.affine)
        for ending in (".mha", ".nrrd"):
            saved = read_image(save_map(tmp_path / f"map{ending}", map_values, image))
            np.testing.assert_array_equal(saved.array[0].reshape(shape), values)
            np.testing.assert_allclose(saved.affine, image.affine, atol=1e-9)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_2d_image_of_itk(tmp_path, ending):
    flat = sitk.GetImageFromArray(numbers((5, 6)).T)
    flat.SetSpacing((0.5, 2.0))
    flat.SetOrigin((3.0, -4.0))
    flat.SetDirection((0, 1, -1, 0))
    sitk.WriteImage(flat, str(tmp_path / f"a{ending}"))
    image = read_image(tmp_path / f"a{ending}")
    path = save_map(tmp_path / f"map{ending}", MAP[..., 0], image)
    reread = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(reread).T, MAP[..., 0])
    assert reread.GetSpacing() == flat.GetSpacing()
    assert reread.GetOrigin() == flat.GetOrigin()
    assert reread.GetDirection() == flat.GetDirection()
    with pytest.raises(InputError, match=r"not known where .* Save it as \.nrrd or \.mha"):
        save_map(tmp_path / "map.nii", MAP[..., 0], image)


def test_a_sheared_image_is_kept_by_nifti_and_refused_by_itk(tmp_path, affine):
    affine[0, 1] += 0.4
    image = read_image(write_nifti(tmp_path / "a.nii", numbers(SHAPE), affine))
    saved = read_image(save_map(tmp_path / "map.nii.gz", MAP, image))
    np.testing.assert_array_equal(saved.affine, image.affine)
    for ending in (".mha", ".nrrd"):
        with pytest.raises(InputError, match=r"not perpendicular .*save the map as \.nii\.gz"):
            save_map(tmp_path / f"map{ending}", MAP, image)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", "map.nii.gz"]


def test_maps_of_a_nifti_without_a_geometry_have_none(tmp_path):
    image = nib.Nifti1Image(numbers(SHAPE), None)
    image.header["pixdim"][1:4] = 0.5, 0.6, 2
    nib.save(image, tmp_path / "a.nii")
    with pytest.warns(MedcamWarning, match="not known"):
        read = read_image(tmp_path / "a.nii")
    header = nib.load(save_map(tmp_path / "map.nii.gz", MAP, read)).header
    assert (header["sform_code"], header["qform_code"]) == (0, 0)
    np.testing.assert_allclose(header.get_zooms(), (0.5, 0.6, 2), rtol=1e-6)
    with pytest.raises(InputError, match=r"not known where .* Save it as \.nii\.gz"):
        save_map(tmp_path / "map.mha", MAP, read)


@pytest.mark.parametrize("ending", [".tif", ".tiff", ".npy"])
def test_maps_of_pictures(tmp_path, ending):
    Pillow.new("RGB", (7, 5)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    values = MAP[:, 0]
    path = save_map(tmp_path / f"map{ending}", values, image)
    np.testing.assert_array_equal(read_image(path).array, values[None])
    reread = np.load(path) if ending == ".npy" else tifffile.imread(path)
    assert reread.dtype == np.float32
    np.testing.assert_array_equal(reread, values)
    for refused in PLACED:
        with pytest.raises(InputError, match=r"not known where .* Save it as \.npy or \.tif"):
            save_map(tmp_path / f"map{refused}", values, image)


def test_a_map_of_a_stack_of_pictures(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(SHAPE, np.uint8), photometric="minisblack")
    image = read_image(tmp_path / "a.tif", as_channels=False)
    path = save_map(tmp_path / "map.tif", MAP, image)
    np.testing.assert_array_equal(tifffile.imread(path), MAP)
    np.testing.assert_array_equal(read_image(path, as_channels=False).array[0], MAP)


@pytest.mark.parametrize("ending", [".tif", ".npy"])
def test_a_format_that_would_lose_the_geometry_is_refused(tmp_path, ending, affine):
    image = source(tmp_path, ".nii.gz", affine)
    with pytest.raises(InputError, match=r"cannot hold where .* Save it as \.nii\.gz"):
        save_map(tmp_path / f"map{ending}", MAP, image)


def test_an_image_in_memory_is_placed_by_its_affine(tmp_path, affine):
    image = Image(np.zeros((2, *SHAPE)), affine)
    for ending in PLACED:
        path = save_map(tmp_path / f"map{ending}", MAP, image)
        assert_agrees(read_image(path), path)
        np.testing.assert_allclose(read_image(path).affine, affine, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (MAP[:-1], InputError, r"\[4, 6, 7\], its image 'image\.nii' \[5, 6, 7\]"),
        (MAP.T, InputError, "must be equal"),
        (MAP[None], InputError, "must be equal"),
        (MAP * np.nan, InputError, "NaN"),
        ("map", InputTypeError, "real numbers"),
    ],
)
def test_values_that_do_not_fit_the_image(tmp_path, values, kind, message, affine):
    image = source(tmp_path, ".nii", affine)
    with pytest.raises(kind, match=message):
        save_map(tmp_path / "map.nii", values, image)


@pytest.mark.parametrize("name", ["map.png", "map.jpg", "map.mhd", "map", "map.nii.zip"])
def test_other_endings(tmp_path, name, affine):
    with pytest.raises(InputError, match=r"does not exist.* Raw maps are saved as"):
        save_map(tmp_path / name, MAP, Image(np.zeros((1, *SHAPE)), affine))


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".tif", ".npy"])
def test_nothing_half_written_is_left(tmp_path, ending, affine):
    placed = ending in PLACED
    image = Image(np.zeros((1, *(SHAPE if placed else SHAPE[:2]))), affine if placed else None)
    (tmp_path / f"map{ending}").mkdir()
    with pytest.raises(SaveError, match="folder"):
        save_map(tmp_path / f"map{ending}", MAP if placed else MAP[..., 0], image)
    assert [path.name for path in tmp_path.iterdir()] == [f"map{ending}"]


def test_itk_errors_become_save_errors(tmp_path, affine, monkeypatch):
    import medcam.files.formats.itk as itk

    monkeypatch.setitem(itk.FORMATS, ".mha", "NoSuchImageIO")
    with pytest.raises(SaveError, match=r"Could not save '.*map\.mha'"):
        save_map(tmp_path / "map.mha", MAP, Image(np.zeros((1, *SHAPE)), affine))
    assert list(tmp_path.iterdir()) == []
