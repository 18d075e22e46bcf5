"""What a trained folder predicted of a case: labels by name, volumes in ml."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

import medcam


def test_volumes_are_those_of_the_segmentation(trained, case, tmp_path):
    model = medcam.nnunet.load(trained())
    found = medcam.nnunet.explain(model, case, "PZ", tta=False)
    prediction = found.prediction
    voxel = abs(np.linalg.det(nib.load(case).affine[:3, :3])) / 1000
    assert prediction.unit == "ml"
    assert {item.name for item in prediction.classes} == {
        name for name in model.labels if name != "ignore"
    }
    for item in prediction.classes:
        count = int((found.segmentation == model.labels[item.name]).sum())
        assert item.voxels == count
        assert item.size == pytest.approx(count * voxel)
    record = json.loads(found.save(tmp_path / "c", montage=False)[-1].read_text())
    assert record["extra"]["prediction"] == json.loads(json.dumps(prediction.to_dict()))


def test_regions_are_unions_of_labels(trained, case):
    model = medcam.nnunet.load(trained(regions=True))
    label = next(name for name, value in model.labels.items() if isinstance(value, list))
    found = medcam.nnunet.explain(model, case, label, tta=False)
    by_name = {item.name: item for item in found.prediction.classes}
    assert "background" not in by_name
    inside = np.isin(found.segmentation, model.labels[label])
    assert by_name[label].voxels == int(inside.sum())
