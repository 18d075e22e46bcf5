"""NRRD and MetaImage files have the geometry that SimpleITK and nibabel give them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from medcam.errors import InputError, MedcamWarning
from medcam.files import read_image
from support.images import AFFINES, assert_agrees, itk_image, numbers, rotated, tolerance

SHAPE = (5, 6, 7)
ENDINGS = [".nrrd", ".mha", ".mhd", ".nhdr"]


def write(path, image):
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_numbers_and_points(tmp_path, name, ending):
    values = numbers(SHAPE)
    image = read_image(write(tmp_path / f"a{ending}", itk_image(values, AFFINES[name])))
    np.testing.assert_array_equal(image.array, values[None])
    np.testing.assert_allclose(image.affine, AFFINES[name], atol=1e-12)
    assert_agrees(image, tmp_path / f"a{ending}")


@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.floats(0.2, 6).flatmap(lambda s: st.sampled_from([s, -s]))] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.sampled_from([".nrrd", ".mha", ".nii.gz"]),
)
def test_any_affine_is_the_same_in_every_format(tmp_path_factory, degrees, sizes, origin, ending):
    affine = rotated(degrees, sizes, origin)
    path = tmp_path_factory.mktemp("any") / f"a{ending}"
    image = read_image(write(path, itk_image(numbers(SHAPE), affine)))
    corners = np.array([(x, y, z, 1) for x in (0, 4) for y in (0, 5) for z in (0, 6)]).T
    atol = tolerance(affine, SHAPE, ending)
    np.testing.assert_allclose(image.affine @ corners, affine @ corners, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("ending", "vector"), [(".nrrd", True), (".mha", True), (".mha", False)], ids=str
)
def test_several_volumes_are_not_guessed(tmp_path, ending, vector, affine):
    values = numbers((*SHAPE, 3), np.float32)
    channels = np.moveaxis(values, -1, 0) if vector else values
    path = write(tmp_path / f"a{ending}", itk_image(channels, affine, vector=vector))
    axis = "components per voxel" if vector else r"volumes \(4th axis\)"
    with pytest.raises(InputError, match=f"3 {axis}: say"):
        read_image(path)
    image = read_image(path, as_channels=True)
    for channel in range(3):
        assert_agrees(image, path, channel=channel)
        single = read_image(path, volume=channel)
        np.testing.assert_array_equal(single.array, values[None, ..., channel])
        np.testing.assert_allclose(single.affine, affine, atol=1e-12)


def test_an_nrrd_of_four_axes_has_no_anatomical_space(tmp_path, affine):
    values = numbers((*SHAPE, 3))
    path = write(tmp_path / "a.nrrd", itk_image(values, affine))
    with pytest.warns(MedcamWarning, match="left and right are not known"):
        image = read_image(path, volume=1)
    np.testing.assert_array_equal(image.array, values[None, ..., 1])
    assert image.affine is None


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ],
)
def test_each_anatomical_space_of_nrrd(tmp_path, space, signs, affine):
    path = write(tmp_path / "a.nrrd", itk_image(numbers(SHAPE), np.eye(4)))
    content = path.read_bytes().replace(b"left-posterior-superior", space.encode())
    vectors = [f"({x},{y},{z})" for x, y, z in affine[:3, :3].T * signs]
    origin = "({},{},{})".format(*affine[:3, 3] * signs)
    lines = []
    for line in content.split(b"\n\n", 1)[0].decode().splitlines():
        line = f"space directions: {' '.join(vectors)}" if "directions" in line else line
        lines.append(f"space origin: {origin}" if "origin" in line else line)
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + content.split(b"\n\n", 1)[1])
    np.testing.assert_allclose(read_image(path).affine, affine, atol=1e-9)


@pytest.mark.parametrize("space", ["space dimension: 3", "space: scanner-xyz"])
def test_an_nrrd_without_an_anatomical_space_has_no_affine(tmp_path, space, affine):
    path = write(tmp_path / "a.nrrd", itk_image(numbers(SHAPE), affine))
    path.write_bytes(path.read_bytes().replace(b"space: left-posterior-superior", space.encode()))
    with pytest.warns(MedcamWarning, match="left and right are not known"):
        image = read_image(path)
    assert image.affine is None
    np.testing.assert_allclose(image.spacing, (0.7, 1.1, 2.5))


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_2d_image_has_a_spacing_but_no_place_in_the_patient(tmp_path, ending):
    flat = sitk.GetImageFromArray(numbers((5, 6)).T)
    flat.SetSpacing((0.5, 2.0))
    image = read_image(write(tmp_path / f"a{ending}", flat))
    np.testing.assert_array_equal(image.array, numbers((5, 6))[None])
    assert image.affine is None
    assert image.spacing == (0.5, 2.0)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_file_that_is_cut_off(tmp_path, ending, affine, capfd):
    path = write(tmp_path / f"a{ending}", itk_image(numbers(SHAPE), affine))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=rf"a\{ending}' cannot be read: .* Is it cut off") as error:
        read_image(path)
    assert "Reason" not in str(error.value)  # "Reason: Success" of the C library


def test_a_header_whose_voxels_are_gone(tmp_path, affine):
    path = write(tmp_path / "a.mhd", itk_image(numbers(SHAPE), affine))
    path.with_suffix(".raw").unlink()
    with pytest.raises(InputError, match=r"a\.mhd' cannot be read"):
        read_image(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_another_kind_of_file(tmp_path, ending, affine):
    """ITK could read both by their content, but would give the picture a geometry."""
    write(tmp_path / "a.png", sitk.GetImageFromArray(numbers((5, 6), np.uint8)))
    write(tmp_path / "a.nii", itk_image(numbers(SHAPE), affine))
    for name in ("a.png", "a.nii"):
        (tmp_path / f"a{ending}").write_bytes((tmp_path / name).read_bytes())
        with pytest.raises(InputError, match="cannot be read"):
            read_image(tmp_path / f"a{ending}")


def test_complex_values_are_refused(tmp_path):
    path = write(tmp_path / "a.nrrd", sitk.Image((5, 6, 7), sitk.sitkComplexFloat32))
    with pytest.raises(InputError, match="real numbers"):
        read_image(path)


def test_nan_is_refused(tmp_path, affine):
    values = numbers(SHAPE, np.float32)
    values[1, 2, 3] = np.nan
    path = write(tmp_path / "a.mha", itk_image(values, affine))
    with pytest.raises(InputError, match="1 of 210 values"):
        read_image(path)


def test_without_simpleitk_the_error_says_how_to_install_it(tmp_path):
    (tmp_path / "a.mha").touch()
    (tmp_path / "SimpleITK.py").write_text("raise ImportError('not here')\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from medcam.files import read_image\n"
        "try: read_image(sys.argv[1] + '/a.mha')\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert "pip install 'm3d-cam[itk]'" in out
