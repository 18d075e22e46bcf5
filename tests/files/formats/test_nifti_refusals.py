"""Maps that would be wrong as NIfTI are refused with a message that says what to do."""

from __future__ import annotations

import errno
import os

import nibabel as nib
import numpy as np
import pytest

from medcam.errors import InputError, InputTypeError, SaveError
from medcam.files import save_nifti

AFFINE = np.array([[0, -2.0, 0, 5], [0.5, 0, 0, -7], [0, 0, 3, 9], [0, 0, 0, 1]])


def image_of(affine, shape=(5, 6, 7), dtype=np.int16):
    return nib.Nifti1Image(np.zeros(shape, dtype), affine)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_nonfinite_values(tmp_path, bad, volume, affine):
    values = volume.astype(np.float64)
    values[1, 2, 3] = bad
    with pytest.raises(InputError, match="1 of 210 values"):
        save_nifti(tmp_path / "m.nii.gz", values, affine)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (image_of(AFFINE, (5, 6, 8)), r"\[5, 6, 7\].*\[5, 6, 8\].*data_shape"),
        (image_of(AFFINE, (7, 6, 5)), r"\[5, 6, 7\].*\[7, 6, 5\].*SimpleITK.*transpose\(2, 1, 0\)"),
        (image_of(AFFINE, (6, 5, 7)), r"\[5, 6, 7\].*\[6, 5, 7\].*another order.*permute"),
        (image_of(AFFINE, (4, 5, 6, 7)), r"\[4, 5, 6\]"),
        (np.eye(3), r"4x4, not \[3, 3\].*sample"),
        (np.stack([AFFINE, AFFINE]), r"4x4, not \[2, 4, 4\]"),
        (np.diag([1, 1, 0, 1]), "finite and invertible"),
        (np.zeros((4, 4)), "finite and invertible"),
        (np.diag([1, np.nan, 1, 1]), "finite and invertible"),
        (np.diag([1, 1, 1, 2]), "last row"),
        ([[1, 2, 3, 0], [2, 4, 6, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "finite and invertible"),
        (AFFINE.T, "last row"),
    ],
)
def test_references_that_do_not_fit(tmp_path, reference, message, volume):
    with pytest.raises(InputError, match=message):
        save_nifti(tmp_path / "m.nii.gz", volume, reference)
    assert list(tmp_path.iterdir()) == []


def test_a_singular_affine_in_an_image(tmp_path, volume, affine):
    image = image_of(affine)
    image.header["srow_x"] = 0
    image = nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), None, image.header)
    with pytest.raises(InputError, match="finite and invertible"):
        save_nifti(tmp_path / "m.nii.gz", volume, image)


@pytest.mark.parametrize("reference", [object(), 3, {"affine": AFFINE}])
def test_references_of_another_kind(tmp_path, reference, volume):
    with pytest.raises(InputTypeError, match="4x4 affine"):
        save_nifti(tmp_path / "m.nii.gz", volume, reference)


@pytest.mark.parametrize("content", [None, b"not an image"])
def test_a_reference_file_that_cannot_be_read(tmp_path, content, volume):
    path = tmp_path / "image.nii.gz"
    if content:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"image\.nii\.gz' cannot be read"):
        save_nifti(tmp_path / "m.nii.gz", volume, path)


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6, 7), (0, 5, 6)])
def test_values_that_are_not_a_volume(tmp_path, shape, affine):
    with pytest.raises(InputError):
        save_nifti(tmp_path / "m.nii.gz", np.zeros(shape), affine)


@pytest.mark.parametrize("volume", ["abc", [[1], [2, 3]], np.zeros((5, 6, 7), complex), None])
def test_values_that_are_not_numbers(tmp_path, volume, affine):
    with pytest.raises(InputTypeError, match="The volume is"):
        save_nifti(tmp_path / "m.nii.gz", volume, affine)


@pytest.mark.parametrize("name", ["m", "m.png", "m.nii.zip", "m.gz"])
def test_another_ending(tmp_path, name, volume, affine):
    with pytest.raises(InputError, match=r"'\.nii\.gz' or '\.nii'"):
        save_nifti(tmp_path / name, volume, affine)


def test_a_full_disk_keeps_the_old_map(tmp_path, monkeypatch, volume, affine):
    path = save_nifti(tmp_path / "m.nii.gz", volume, affine)
    old = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SaveError, match="No space left"):
        save_nifti(path, volume + 1, affine)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.nii.gz"]
