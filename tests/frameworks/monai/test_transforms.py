"""Maps in MONAI's pipelines: back on the file's grid, at the same place in the patient."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Compose,
    CropForegroundd,
    DivisiblePadd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    Resized,
    SaveImaged,
    ScaleIntensityd,
    Spacingd,
)

import medcam
from medcam.errors import InputError, InputTypeError, UnknownNameError
from support.monai_cases import SHAPE, Finder, centre_mm, inside, oblique, spot_mm, write_volume
from support.nets import Classifier, image
from support.stitched import net

# Loading any image makes MONAI look for a decoder of DICOM files that is not installed here.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")

ONE = medcam.targets.class_score(1)
RAS = (("L", "R"), ("P", "A"), ("I", "S"))


def preprocessing():
    return Compose([
        LoadImaged("image"),
        EnsureChannelFirstd("image"),
        Orientationd("image", "RAS", labels=RAS),
        Spacingd("image", (1.5, 2.2, 2.5), mode="bilinear"),
        CropForegroundd("image", "image", allow_smaller=False),
        Resized("image", (24, 26, 20), mode="trilinear"),
        DivisiblePadd("image", 16),
        ScaleIntensityd("image"),
    ])  # fmt: skip


def postprocessing(pre, folder, **options):
    return Compose([
        medcam.monai.AttentionMapd("image", Finder().eval(), layer="features.1", **options),
        Invertd("image_attention", pre, orig_keys="image", nearest_interp=False),
        SaveImaged(
            "image_attention", output_dir=folder, output_postfix="attention", resample=False,
            separate_folder=False, print_log=False,
        ),
    ])  # fmt: skip


WINDOWS = SlidingWindowInferer((16, 16, 16), mode="gaussian")
OPTIONS = {
    "whole": {"inferer": None, "method": "gcam"},
    "windows": {"inferer": WINDOWS, "method": "hirescam"},
    "windows with the volume's weights": {"inferer": WINDOWS, "method": "gcam"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_map_comes_back_to_the_files_grid_and_to_its_place_in_the_patient(name, tmp_path):
    source = write_volume(tmp_path / "case.nii.gz")
    pre = preprocessing()
    data = pre({"image": str(source)})
    assert tuple(data["image"].shape[1:]) == (32, 32, 32)
    assert np.linalg.det(data["image"].affine[:3, :3]) > 0  # another grid than the file's
    found = postprocessing(pre, tmp_path, target=1, **OPTIONS[name])(data)
    assert isinstance(found["image_attention"], MetaTensor)
    saved = nibabel.load(tmp_path / "case_attention.nii.gz")
    assert saved.shape == SHAPE
    assert saved.get_data_dtype() == np.float32
    np.testing.assert_allclose(saved.affine, oblique(), atol=1e-4)
    itk, mask = sitk.ReadImage(str(tmp_path / "case_attention.nii.gz")), sitk.ReadImage(str(source))
    np.testing.assert_allclose(itk.GetOrigin(), mask.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(itk.GetDirection(), mask.GetDirection(), atol=1e-5)
    assert np.linalg.norm(centre_mm(saved) - spot_mm()) < 0.7
    assert inside(saved) > 0.8


def test_the_map_lies_on_the_networks_grid_with_the_images_history(tmp_path):
    source = write_volume(tmp_path / "case.nii.gz")
    data = preprocessing()({"image": str(source)})
    network = Finder().eval()
    add = medcam.monai.AttentionMapd("image", network, layer="features.1", target=ONE)
    found = add(data)
    attention, given = found["image_attention"], data["image"]
    assert "image_attention" not in data
    assert found["image"] is given
    assert torch.equal(attention.affine, given.affine)
    assert attention.meta["filename_or_obj"] == str(source)
    steps = [step["class"] for step in given.applied_operations]
    assert [step["class"] for step in attention.applied_operations] == steps
    assert "SpatialResample" in steps
    assert attention.applied_operations is not given.applied_operations
    expected = medcam.explain(network, given.as_tensor()[None], layer="features.1", target=ONE)
    assert expected.map.values.any()
    assert torch.equal(attention.as_tensor(), expected.map.values[0])


def test_the_array_transform_makes_the_same_map():
    model, x = net(2).double(), torch.rand(1, 14, 14, dtype=torch.float64)
    options = {"layer": "fine", "method": "layercam", "target": medcam.targets.classes(1, 2)}
    expected = medcam.explain_volume(model, x[None], 8, mode="constant", **options).map.values[0]
    assert expected.any()
    make = medcam.monai.AttentionMapTransform(model, SlidingWindowInferer(8), **options)
    for given in (x, x.numpy()):
        found = make(given)
        assert found.shape == (2, 14, 14)
        torch.testing.assert_close(found.as_tensor(), expected, rtol=0, atol=1e-12)


def test_keys_and_predictions_are_named_as_asked():
    model = net(2, dtype=torch.float32)
    data = {"t1": torch.rand(1, 12, 12), "t2": torch.rand(1, 12, 12)}
    add = medcam.monai.AttentionMapDict(
        ("t1", "t2", "flair"), model, layer="fine", target=2, output_postfix="cam",
        prediction_postfix="logits", allow_missing_keys=True,
    )  # fmt: skip
    found = add(data)
    assert set(found) == {"t1", "t2", "t1_cam", "t2_cam", "t1_logits", "t2_logits"}
    for key in ("t1", "t2"):
        explanation = medcam.explain(model, data[key][None], layer="fine", target=2)
        assert torch.equal(found[f"{key}_cam"].as_tensor(), explanation.map.values[0])
        assert torch.equal(found[f"{key}_logits"].as_tensor(), explanation.output[0])
        assert not found[f"{key}_logits"].requires_grad
    strict = medcam.monai.AttentionMapd("flair", model, layer="fine")
    with pytest.raises(KeyError, match="flair"):
        strict(data)


def test_it_works_in_a_data_set_with_a_classifier():
    model = Classifier().eval()
    items = [{"image": item} for item in image(2, batch=3)]
    add = medcam.monai.AttentionMapD("image", model, layer="features.1", target=1)
    (batch,) = DataLoader(Dataset(items, add), batch_size=3)
    together = torch.stack([item["image"] for item in items])
    expected = medcam.explain(model, together, layer="features.1", target=1).map.values
    assert expected.any()
    torch.testing.assert_close(batch["image_attention"].as_tensor(), expected)


@pytest.mark.parametrize("options", [{"method": ["gcam"]}, {"layer": "full"}, {"layer": ["fine"]}])
def test_several_maps_have_no_room_under_one_key(options):
    with pytest.raises(InputError, match="take one method and one layer"):
        medcam.monai.AttentionMapd("image", net(2), **options)


def test_unknown_names_are_refused():
    with pytest.raises(UnknownNameError, match="gcamm"):
        medcam.monai.AttentionMapd("image", net(2), method="gcamm")
    with pytest.raises(InputTypeError, match="cannot be wrapped"):
        medcam.monai.AttentionMapd("image", net(2), medcam.monai.AttentionInferer())


# ------------------------------------------------------------------------------- as_metatensor


def batch_of_two():
    items = []
    for k in range(2):
        item = MetaTensor(torch.rand(1, 8, 6, 4), affine=torch.diag(torch.tensor([k + 1.0] * 4)))
        item.affine[3, 3] = 1
        item.meta["filename_or_obj"] = f"{k}.nii.gz"
        items.append({"image": item})
    (batch,) = DataLoader(items, batch_size=2)
    return batch["image"]


def test_a_batch_keeps_each_samples_geometry_through_decollating():
    like = batch_of_two()
    values = torch.rand(2, 3, 8, 6, 4)
    found = medcam.monai.as_metatensor(values, like)
    assert torch.equal(found.as_tensor(), values)
    assert torch.equal(found[1].affine, like[1].affine)
    for k, item in enumerate(decollate_batch(found)):
        assert item.shape == (3, 8, 6, 4)
        assert torch.equal(item.as_tensor(), values[k])
        assert torch.equal(item.affine, decollate_batch(like)[k].affine)
        assert item.meta["filename_or_obj"] == f"{k}.nii.gz"


def test_explanations_maps_and_values_are_taken():
    x = MetaTensor(torch.rand(1, 1, 8, 8), affine=torch.diag(torch.tensor([2.0, 3, 1, 1])))
    found = medcam.explain(net(2, dtype=torch.float32), x, layer="fine", target=1)
    for given in (found, found.map, found.map.values):
        made = medcam.monai.as_metatensor(given, x)
        assert torch.equal(made.as_tensor(), found.map.values)
        assert torch.equal(made.affine, x.affine)
    single = medcam.monai.as_metatensor(found, x[0])
    assert torch.equal(single.as_tensor(), found.map.values[0])
    assert torch.equal(single.affine, x.affine)


@pytest.mark.parametrize(
    ("shape", "like"),
    [
        ((1, 1, 4, 4), (1, 1, 8, 8)),
        ((2, 1, 8, 8), (1, 1, 8, 8)),
        ((2, 1, 8, 8), (1, 8, 8)),
        ((1, 1, 8, 4), (1, 8, 8)),
    ],
)
def test_maps_on_another_grid_are_refused(shape, like):
    with pytest.raises(InputError, match="spatial axes have to be equal"):
        medcam.monai.as_metatensor(torch.rand(shape), MetaTensor(torch.rand(like)))


def test_a_plain_tensor_knows_no_place():
    with pytest.raises(InputTypeError, match="not Tensor: only a MetaTensor"):
        medcam.monai.as_metatensor(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8))
