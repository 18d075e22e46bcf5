"""The voxels that are explained: all of a label, a component, a region, a point."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import medcam
from medcam.errors import InputError, TargetError, UnknownNameError
from medcam.frameworks.nnunet.cases import case_from_files
from medcam.frameworks.nnunet.preprocessing import prepare
from medcam.frameworks.nnunet.target import resolve

SHAPE = (19, 23, 17)


@pytest.fixture(scope="module")
def toy(trained, case):
    """Return a function that makes a model, a prepared case and its logits."""

    def make(**options):
        model = medcam.nnunet.load(trained(folds=(0,), mirror=(), **options))
        prepared = prepare(model, case_from_files(model, case))
        logits = model.predictor.predict_logits_from_preprocessed_data(
            torch.from_numpy(prepared.data)
        ).clone()
        return model, prepared, logits.float()

    return make


def region(path, case, box):
    values = np.zeros(SHAPE, np.uint8)
    values[box] = 1
    nib.save(nib.Nifti1Image(values, nib.load(case).affine), path)
    return path


def test_predicted_is_where_the_label_wins(toy):
    _, prepared, logits = toy()
    found = resolve(prepared, logits, "TZ", "predicted")
    assert found.channel == 2
    np.testing.assert_array_equal(found.voxels, logits.argmax(0).numpy() == 2)


def test_a_region_is_the_channel_of_its_own(toy):
    _, prepared, logits = toy(regions=True)
    for channel, name in enumerate(["whole", "core"]):
        found = resolve(prepared, logits, name, "predicted")
        assert found.channel == channel
        np.testing.assert_array_equal(found.voxels, logits[channel].numpy() > 0)


def test_component_is_the_largest(toy):
    _, prepared, logits = toy()
    logits = torch.zeros_like(logits)
    logits[1, 1:3, 1:3, 1:3] = logits[1, 5:8, 5:8, 5:8] = 1
    found = resolve(prepared, logits, "PZ", "component").voxels
    assert found.sum() == 27
    assert (resolve(prepared, logits, "PZ", Path("component")).voxels == found).all()
    assert found[5:8, 5:8, 5:8].all()


@pytest.mark.parametrize("part", ["point 9,12,8", "point:9,12,8", (9, 12, 8)])
def test_a_point_is_one_voxel(toy, part):
    _, prepared, logits = toy()
    found = resolve(prepared, logits, "PZ", part)
    assert found.voxels.sum() == 1
    assert found.voxels[prepared.to_network_grid((9, 12, 8))]


def test_a_place_in_mm_is_the_voxel_there(toy, case):
    _, prepared, logits = toy()
    x, y, z = (nib.load(case).affine @ (9, 12, 8, 1))[:3]
    found = resolve(prepared, logits, "PZ", f"mm {x},{y},{z}")
    assert found.voxels[prepared.to_network_grid((9, 12, 8))]


def test_a_file_is_a_region_of_the_image(toy, case, tmp_path):
    _, prepared, logits = toy()
    box = (slice(5, 12), slice(6, 15), slice(4, 12))
    found = resolve(prepared, logits, "PZ", region(tmp_path / "roi.nii.gz", case, box))
    ones = np.zeros(SHAPE)
    ones[box] = 1
    back = prepared.to_image_grid(found.voxels.astype(np.float32)) > 0.5
    overlap = 2 * (back & (ones > 0)).sum() / (back.sum() + ones.sum())
    assert overlap > 0.85


def test_a_region_of_one_voxel_does_not_vanish(toy, case, tmp_path):
    _, prepared, logits = toy(configuration="3d_lowres")
    path = region(tmp_path / "roi.nii.gz", case, (9, 12, 8))
    found = resolve(prepared, logits, "PZ", path)
    assert found.voxels.any()
    assert found.voxels[prepared.to_network_grid((9, 12, 8))]


def test_an_absent_label_is_a_zero_map_with_a_status(trained, case, tmp_path):
    model = medcam.nnunet.load(trained(folds=(0,), mirror=()))
    heads = model.parameters[0]
    biases = [name for name in heads if name.endswith("bias") and "seg_layers" in name]
    for name in biases:
        heads[name] = heads[name] - torch.tensor([0.0, 100.0, 0.0])
    found = medcam.nnunet.explain(model, case, "PZ", method=["gcam", "gbp"])
    assert found.status == "absent"
    assert all(not values.any() and values.shape == SHAPE for values in found.maps.values())
    assert set(np.unique(found.segmentation)) <= {0, 2}
    *_, record = found.save(tmp_path / "c")
    assert '"status": "absent"' in record.read_text()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("everything", "is neither 'predicted', 'component'"),
        ("point 1,2", "is outside the image"),
        ("point 1,x,2", "a place is three numbers"),
        ("point 30,1,1", r"Voxel \(30, 1, 1\) is outside the image, whose shape is \(19, 23, 17\)"),
        ("point 0,0,0", "in the empty margin"),
        ("mm 1,2", "three numbers"),
        ([], "give 'predicted', 'component'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(toy, part, message):
    _, prepared, logits = toy()
    with pytest.raises(InputError, match=message):
        resolve(prepared, logits, "PZ", part)


def test_regions_that_do_not_fit_are_refused(toy, case, tmp_path):
    _, prepared, logits = toy()
    affine = nib.load(case).affine

    def refused(values, affine, message):
        path = tmp_path / "bad.nii.gz"
        nib.save(nib.Nifti1Image(values.astype(np.uint8), affine), path)
        with pytest.raises(TargetError, match=message):
            resolve(prepared, logits, "PZ", path)

    refused(np.ones((5, 5, 5)), affine, "does not lie on the image's grid")
    moved = affine.copy()
    moved[0, 3] += 5
    refused(np.ones(SHAPE), moved, "does not lie on the image's grid")
    refused(2 * np.ones(SHAPE), affine, "values other than 0 and 1")
    refused(np.zeros(SHAPE), affine, "is empty")


def test_unknown_labels_are_refused_with_the_known_ones(trained, case):
    with pytest.raises(UnknownNameError, match=r"Label 'PX' does not exist.*'PZ'"):
        medcam.nnunet.explain(trained(), case, "PX")
    with pytest.raises(UnknownNameError, match="regions"):
        medcam.nnunet.explain(trained(regions=True, folds=(0,)), case, "background")
    with pytest.raises(TypeError, match="is not the name of a label"):
        medcam.nnunet.explain(trained(), case, 1)
