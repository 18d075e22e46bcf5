"""A NIfTI map has the geometry of its image, in nibabel (RAS) and in SimpleITK (LPS)."""

from __future__ import annotations

import warnings
from functools import partial
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch

from medcam.errors import InputError, MedcamWarning
from medcam.files import save_nifti
from support.images import rotated

affine_of = partial(rotated, origin=(-91.25, 37.5, 1012.125))

AFFINES = {
    "anisotropic": affine_of((0, 0, 0), (0.5, 0.75, 5)),
    "oblique": affine_of((20, -11, 33), (0.9, 0.8, 3)),
    "left-handed": affine_of((0, 0, 0), (-1, 1, 1)),
    "left-handed oblique": affine_of((15, 40, -25), (-0.7, 1.1, 2.5)),
    "coronal": affine_of((90, 0, 90), (1, 1, 4)),
    "upside down": affine_of((180, 0, 0), (1, 2, 3)),
}


@pytest.fixture(params=AFFINES)
def each_affine(request):
    return AFFINES[request.param]


def image_of(affine, shape=(5, 6, 7), dtype=np.int16):
    return nib.Nifti1Image(np.zeros(shape, dtype), affine)


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor, np.ndarray.tolist])
def test_a_plain_affine(tmp_path, each_affine, convert, volume, assert_saved):
    path = save_nifti(tmp_path / "m.nii.gz", volume, convert(each_affine))
    assert_saved(path, each_affine, volume)


@pytest.mark.parametrize("name", ["m.nii.gz", "m.nii", "layer4.1.nii.gz"])
def test_an_image_in_memory_or_by_its_path(tmp_path, each_affine, name, volume, assert_saved):
    image = image_of(each_affine)
    nib.save(image, tmp_path / "image.nii.gz")
    for reference in (image, tmp_path / "image.nii.gz", str(tmp_path / "image.nii.gz")):
        assert_saved(save_nifti(tmp_path / name, volume, reference), each_affine, volume)


def test_an_image_that_simpleitk_wrote(tmp_path, volume, affine):
    image = SimpleITK.Image((5, 6, 7), SimpleITK.sitkInt16)
    image.SetSpacing((0.5, 0.6, 3.5))
    image.SetOrigin((10.5, -20.25, 33))
    image.SetDirection((affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).ravel().tolist())
    SimpleITK.WriteImage(image, str(tmp_path / "image.nii.gz"))
    path = save_nifti(tmp_path / "m.nii.gz", volume, tmp_path / "image.nii.gz")
    source, read = (SimpleITK.ReadImage(str(p)) for p in (tmp_path / "image.nii.gz", path))
    assert read.GetSpacing() == source.GetSpacing()
    assert read.GetOrigin() == source.GetOrigin()
    assert read.GetDirection() == source.GetDirection()


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((5, 6, 7, 4), nib.Nifti1Image), ((5, 6, 7), nib.Nifti2Image), ((5, 6, 7), nib.MGHImage)],
    ids=["4D", "NIfTI-2", "MGH"],
)
def test_other_images(tmp_path, shape, kind, volume, affine, assert_saved):
    image = kind(np.zeros(shape, np.float32), affine)
    assert_saved(save_nifti(tmp_path / "m.nii.gz", volume, image), image.affine, volume)


def test_an_image_whose_affine_was_changed_in_memory(tmp_path, volume, affine, assert_saved):
    image = image_of(np.eye(4))
    image.affine[:] = affine
    assert_saved(save_nifti(tmp_path / "m.nii.gz", volume, image), affine, volume)


def test_one_slice_fits_a_2d_image(tmp_path, volume, affine, assert_saved):
    image = image_of(affine, (5, 6))
    assert_saved(save_nifti(tmp_path / "m.nii.gz", volume[..., :1], image), affine, volume[..., :1])


def test_a_sheared_affine_lives_in_the_sform_alone(tmp_path, volume, affine):
    sheared = affine.copy()
    sheared[0, 1] += 0.4
    read = nib.load(save_nifti(tmp_path / "m.nii.gz", volume, sheared))
    np.testing.assert_array_equal(read.affine, np.float32(sheared))
    assert int(read.header["qform_code"]) == 0
    spacing = np.linalg.norm(sheared[:3, :3], axis=0)
    np.testing.assert_allclose(read.header.get_zooms(), spacing, rtol=1e-6)


class Tagged(torch.Tensor):
    """A stand-in for MONAI's MetaTensor: a tensor, channels first, with an affine."""

    affine: torch.Tensor


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 5, 6, 7), (2, 3, 5, 6, 7)])
@pytest.mark.parametrize("batched", [False, True])
def test_a_tensor_with_an_affine(tmp_path, shape, batched, volume, affine, assert_saved):
    image = torch.zeros(shape).as_subclass(Tagged)
    image.affine = torch.tensor(affine[None] if batched else affine)
    assert_saved(save_nifti(tmp_path / "m.nii.gz", volume, image), affine, volume)
    with pytest.raises(InputError, match=r"\[5, 6, 6\].*\[5, 6, 7\]"):
        save_nifti(tmp_path / "m.nii.gz", volume[..., 1:], image)


def test_a_metatensor(tmp_path, volume, affine, assert_saved):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of importing monai
        import monai.data as monai_data
    image = monai_data.MetaTensor(torch.zeros(1, 5, 6, 7), affine=torch.tensor(affine))
    volume = monai_data.MetaTensor(torch.tensor(volume))
    assert_saved(save_nifti(tmp_path / "m.nii.gz", volume, image), affine, volume)


def test_any_object_with_an_affine(tmp_path, volume, affine, assert_saved):
    path = save_nifti(tmp_path / "m.nii.gz", volume, SimpleNamespace(affine=affine))
    assert_saved(path, affine, volume)


def test_without_reference_the_identity_and_one_warning(tmp_path, volume, assert_saved):
    with pytest.warns(MedcamWarning, match=r"without its image's geometry.*reference=") as caught:
        path = save_nifti(tmp_path / "m.nii.gz", volume)
    assert [warning.filename for warning in caught] == [__file__]
    assert_saved(path, np.eye(4), volume)
    save_nifti(tmp_path / "m.nii.gz", volume)  # a second warning would be an error here
