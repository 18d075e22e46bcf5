"""The segmentation is nnU-Net's own, and maps lie on the original image."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

import medcam
from medcam.frameworks.nnunet.cases import case_from_files
from medcam.frameworks.nnunet.preprocessing import prepare
from support.nnunet_toy import make_image, oblique, write_case

CONFIGURATIONS = [
    {},
    {"configuration": "2d"},
    {"configuration": "3d_lowres", "folds": (0,)},
    {"arch": "ResidualEncoderUNet", "folds": (0,)},
    {"regions": True, "folds": (0,)},
    {"reader": "NibabelIO", "transpose": (0, 1, 2), "folds": (0,)},
    {"reader": "NibabelIOWithReorient", "transpose": (1, 2, 0), "folds": (0,)},
    {"reader": "SimpleITKIOWithReorient", "folds": (0,)},
    {"folds": ("all",), "mirror": ()},
]


def files_of(first):
    return [first, first.with_name(first.name.replace("_0000", "_0001"))]


def turned(axes, flips, affine):
    """An affine with its axes exchanged and reversed."""
    found = affine[:, [*axes, 3]].copy()
    for axis in flips:
        found[:3, axis] *= -1
    return found


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_the_segmentation_is_nnunets(options, trained, case, tmp_path, predicted_by_nnunet):
    folder = trained(**options)
    folds = options.get("folds", (0, 1))
    found = medcam.nnunet.explain(folder, case, "core" if options.get("regions") else "PZ")
    found.save(tmp_path / "ours")
    predicted_by_nnunet(folder, files_of(case), tmp_path / "theirs", folds=folds)
    ours, theirs = (nib.load(tmp_path / name) for name in ("ours_seg.nii.gz", "theirs.nii.gz"))
    assert len(np.unique(theirs.dataobj)) > 1
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    image = nib.load(case)
    np.testing.assert_array_equal(found.segmentation, np.asarray(theirs.dataobj))
    saved = nib.load(tmp_path / "ours_layercam.nii.gz")
    assert saved.get_data_dtype() == np.float32
    assert saved.shape == image.shape
    np.testing.assert_array_equal(saved.affine, image.affine)
    np.testing.assert_array_equal(np.asarray(saved.dataobj), found.map)
    assert found.map.max() > 0


READERS = ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize(
    ("axes", "flips"), [((0, 1, 2), ()), ((2, 0, 1), (0,)), ((1, 2, 0), (1, 2)), ((0, 2, 1), (2,))]
)
def test_a_known_image_comes_back_to_its_voxels(reader, transpose, axes, flips, trained, tmp_path):
    """If the network's grid has the image's spacing, mapping there and back changes nothing."""
    affine = turned(axes, flips, oblique((1.0, 1.0, 1.0)))
    image = make_image((15, 18, 21), margin=3)
    first = write_case(tmp_path, image, affine)
    folder = trained(
        reader=reader, transpose=transpose, spacing=(1.0, 1.0, 1.0), folds=(0,), patch=(8, 8, 8)
    )
    model = medcam.nnunet.load(folder)
    prepared = prepare(model, case_from_files(model, first))
    returned = prepared.to_image_grid(prepared.data[1])
    values = image[1]
    inside = values != 0
    assert returned.shape == values.shape
    assert (returned[~inside] == 0).all()
    a, b = returned[inside], values[inside]
    np.testing.assert_allclose((a - a.mean()) / a.std(), (b - b.mean()) / b.std(), atol=1e-4)
    marker = tuple(np.argwhere(inside)[100])
    value = prepared.data[1][prepared.to_network_grid(marker)]
    np.testing.assert_allclose(returned[marker], value, atol=1e-4)


@pytest.mark.parametrize("reader", READERS)
def test_a_resampled_map_stays_at_its_place_in_mm(reader, trained, tmp_path):
    shape, affine = (24, 26, 20), oblique()
    image = make_image(shape, margin=2)
    first = write_case(tmp_path, image, affine)
    model = medcam.nnunet.load(trained(reader=reader, folds=(0,)))
    prepared = prepare(model, case_from_files(model, first))
    place = (9, 15, 8)
    index = np.stack(np.indices(prepared.grid), -1)
    centre = np.asarray(prepared.to_network_grid(place))
    blob = np.exp(-((index - centre) ** 2).sum(-1) / 8).astype(np.float32)
    returned = prepared.to_image_grid(blob)
    weights = returned / returned.sum()
    found = (np.stack(np.indices(shape), -1) * weights[..., None]).sum((0, 1, 2))
    away = affine[:3, :3] @ (found - np.asarray(place))
    assert np.linalg.norm(away) < 0.9  # mm; half a voxel of the network's grid


def test_simpleitk_reads_the_map_at_the_same_place(trained, case, tmp_path):
    found = medcam.nnunet.explain(trained(), case, "TZ", folds=0, tta=False)
    found.save(tmp_path / "c")
    ours, image = (sitk.ReadImage(str(p)) for p in (tmp_path / "c_layercam.nii.gz", case))
    for index in [(0, 0, 0), (18, 22, 16), (3, 20, 9)]:
        np.testing.assert_allclose(
            ours.TransformIndexToPhysicalPoint(index),
            image.TransformIndexToPhysicalPoint(index), atol=1e-5,
        )  # fmt: skip
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours).transpose(2, 1, 0), found.map)


def test_the_network_sees_a_file_of_several_channels(trained, tmp_path):
    image, affine = make_image(), oblique()
    nib.save(nib.Nifti1Image(np.moveaxis(image, 0, 3), affine), tmp_path / "all.nii.gz")
    first = write_case(tmp_path, image, affine)
    one = medcam.nnunet.explain(trained(), tmp_path / "all.nii.gz", "PZ", folds=0, tta=False)
    two = medcam.nnunet.explain(trained(), first, "PZ", folds=0, tta=False)
    np.testing.assert_allclose(one.map, two.map, rtol=1e-4, atol=1e-9)


def test_pictures_have_maps_too(trained, tmp_path):
    from skimage import io

    rng = np.random.default_rng(0)
    for channel in range(2):
        picture = (rng.random((40, 33)) * 255).astype(np.uint8)
        io.imsave(tmp_path / f"p_{channel:04d}.png", picture, check_contrast=False)
    folder = trained(
        configuration="2d", reader="NaturalImage2DIO", ending=".png", transpose=(0, 1, 2),
        spacing=(1.0, 1.0, 1.0), folds=(0,),
    )  # fmt: skip
    found = medcam.nnunet.explain(folder, tmp_path / "p_0000.png", "PZ")
    assert found.map.shape == found.segmentation.shape == (40, 33)
    assert found.affine is None
    names = [path.name for path in found.save(tmp_path / "out" / "p")]
    assert {"p_layercam.tif", "p_seg.png", "p_montage.png"} < set(names)
    assert names[-1] == "p.json"
    np.testing.assert_array_equal(io.imread(tmp_path / "out" / "p_seg.png"), found.segmentation)
    np.testing.assert_array_equal(io.imread(tmp_path / "out" / "p_layercam.tif"), found.map)


def test_a_compiled_network_is_looked_through(trained, case, monkeypatch):
    plain = medcam.nnunet.explain(trained(folds=(0,), mirror=()), case, "PZ")
    monkeypatch.setenv("nnUNet_compile", "true")
    model = medcam.nnunet.load(trained(folds=(0,), mirror=()))
    assert isinstance(model.predictor.network, torch._dynamo.OptimizedModule)
    monkeypatch.setattr(model.predictor, "network", torch.compile(model.network, backend="eager"))
    found = medcam.nnunet.explain(model, case, "PZ")
    np.testing.assert_allclose(found.map, plain.map, rtol=1e-4, atol=1e-9)
