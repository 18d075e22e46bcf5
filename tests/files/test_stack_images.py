"""Files of one channel each are stacked to one image only if they lie on one grid."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Pillow

from medcam.errors import InputError, MedcamWarning
from medcam.files import read_image, save_map, stack_images
from support.images import itk_image, numbers, write_nifti

SHAPE = (5, 6, 7)


def test_the_channels_are_in_the_order_given(tmp_path, affine):
    first, second = numbers(SHAPE), numbers(SHAPE, np.float32, seed=1)
    paths = [
        write_nifti(tmp_path / "t1.nii.gz", first, affine),
        tmp_path / "t2.mha",
    ]
    sitk.WriteImage(itk_image(second, affine), str(paths[1]))
    image = stack_images(paths)
    np.testing.assert_array_equal(image.array, [first, second])
    assert image.paths == tuple(paths)
    saved = read_image(save_map(tmp_path / "map.nii.gz", first, image))
    np.testing.assert_array_equal(saved.affine, read_image(paths[0]).affine)
    np.testing.assert_array_equal(stack_images(paths[::-1]).array, [second, first])
    np.testing.assert_array_equal(stack_images(paths[0]).array, [first])


@pytest.mark.parametrize("shift", [4e-3, 1.0])
@pytest.mark.parametrize("where", [(0, 3), (2, 2), (1, 0)])
def test_another_place_is_refused(tmp_path, shift, where, affine):
    moved = affine.copy()
    moved[where] += shift
    paths = [
        write_nifti(tmp_path / "t1.nii", numbers(SHAPE), affine),
        write_nifti(tmp_path / "t2.nii", numbers(SHAPE), moved),
    ]
    with pytest.raises(InputError, match=r"t1\.nii' and '.*t2\.nii' do not lie on one grid: .* mm"):
        stack_images(paths)


def test_rounding_errors_of_the_affine_are_allowed(tmp_path, affine):
    moved = affine.copy()
    moved[:3] += 2e-5
    paths = [
        write_nifti(tmp_path / "t1.nii", numbers(SHAPE), affine),
        write_nifti(tmp_path / "t2.nii", numbers(SHAPE), moved),
    ]
    assert len(stack_images(paths).array) == 2


def test_how_far_voxels_are_apart_counts_not_the_affines_entries(tmp_path):
    """A spacing that differs by 0.0005 mm moves the last of 200 voxels by 0.1 mm."""
    wide = np.diag([1.0005, 1, 1, 1])
    paths = [
        write_nifti(tmp_path / "t1.nii", numbers((200, 2, 2)), np.eye(4)),
        write_nifti(tmp_path / "t2.nii", numbers((200, 2, 2)), wide),
    ]
    with pytest.raises(InputError, match=r"up to 0\.09949 mm apart"):
        stack_images(paths)


def test_another_shape_is_refused(tmp_path, affine):
    paths = [
        write_nifti(tmp_path / "t1.nii", numbers(SHAPE), affine),
        write_nifti(tmp_path / "t2.nii", numbers((5, 6, 8)), affine),
    ]
    with pytest.raises(InputError, match=r"\[5, 6, 7\] and \[5, 6, 8\]\. Resample"):
        stack_images(paths)


def test_an_affine_and_none_are_not_one_grid(tmp_path, affine):
    write_nifti(tmp_path / "t1.nii", numbers(SHAPE), affine)
    np.save(tmp_path / "t2.npy", numbers((1, *SHAPE)))
    nib.save(nib.Nifti1Image(numbers(SHAPE), None), tmp_path / "t2.nii")
    with (
        pytest.warns(MedcamWarning, match="not known"),
        pytest.raises(InputError, match=r"'t2\.nii' does not say where its voxels lie"),
    ):
        stack_images([tmp_path / "t1.nii", tmp_path / "t2.nii"])


def test_spacings_count_where_there_is_no_place(tmp_path):
    for name, size in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        image = sitk.GetImageFromArray(numbers((5, 6)).T)
        image.SetSpacing((1.0, size))
        sitk.WriteImage(image, str(tmp_path / f"{name}.mha"))
    assert stack_images([tmp_path / "a.mha", tmp_path / "b.mha"]).array.shape == (2, 5, 6)
    with pytest.raises(InputError, match=r"\(1\.0, 1\.0\) and \(1\.0, 2\.0\) mm"):
        stack_images([tmp_path / "a.mha", tmp_path / "c.mha"])
    Pillow.fromarray(numbers((5, 6), np.uint8)).save(tmp_path / "d.png")
    with pytest.raises(InputError, match=r"\(1\.0, 1\.0\) and None mm"):
        stack_images([tmp_path / "a.mha", tmp_path / "d.png"])


def test_pictures(tmp_path):
    for name in ("a", "b"):
        Pillow.fromarray(numbers((5, 6), np.uint8)).save(tmp_path / f"{name}.png")
    assert stack_images([tmp_path / "a.png", tmp_path / "b.png"]).array.shape == (2, 5, 6)


def test_several_channels_in_one_file_are_refused(tmp_path):
    Pillow.new("RGB", (5, 6)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png' has 3 channels"):
        stack_images([tmp_path / "a.png", tmp_path / "a.png"])


def test_one_volume_of_each(tmp_path, affine):
    values = numbers((*SHAPE, 2))
    path = write_nifti(tmp_path / "a.nii", values, affine)
    image = stack_images([path, path], volume=1)
    np.testing.assert_array_equal(image.array, [values[..., 1]] * 2)


def test_nothing_to_stack():
    with pytest.raises(InputError, match="at least one"):
        stack_images([])
