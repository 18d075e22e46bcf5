"""``medcam report`` makes the pages again from saved cases, even if their folder was moved."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

import medcam
from medcam.explanation.case.reading import read_case, report_folder
from medcam.files import save_nifti
from support.nets import Classifier, image
from support.nnunet_toy import make_folder, make_image, oblique, write_case

AFFINE = np.array([[0, 0, -2.0, 40], [1.5, 0, 0, -8], [0, -3.0, 0, 5], [0, 0, 0, 1]])
SCORES = [{"method": "Grad-CAM", "dice": 0.5, "hd95": float("nan")}]


def moved(folder):
    """Move a folder, on whose path nothing may depend."""
    return shutil.move(folder, folder.with_name("moved"))


def same_maps(case, explanation, sample=0):
    values = [
        map_.values[sample, target].numpy()
        for map_ in explanation.maps.values()
        for target in range(map_.values.shape[1])
    ]
    assert len(case.maps) == len(values)
    for shown, expected in zip(case.maps, values, strict=True):
        np.testing.assert_array_equal(shown.values, expected)


@pytest.mark.parametrize("of_file", [True, False])
def test_a_volume(tmp_path, of_file):
    inputs = image(3, 1)
    mask = (inputs[0, 0] > 0.6).numpy()
    net = Classifier(3).eval()
    explanation = medcam.explain(
        net, inputs, method=["gcam", "gbp"], layer=["features.0", "features"], target="all"
    )
    image_source = MetaTensor(inputs[0], affine=torch.from_numpy(AFFINE))
    if of_file:
        image_source = save_nifti(tmp_path / "out" / "t1.nii.gz", inputs[0, 0], AFFINE)
        mask_source = save_nifti(tmp_path / "out" / "truth.nii.gz", mask * 2.0, AFFINE)
    else:
        mask_source = mask
    explanation.save(
        tmp_path / "out" / "case", image=image_source, mask=mask_source, scores=SCORES,
        name="<Case 7>", extra={"modality": "MR"}, montage=False,
    )  # fmt: skip
    folder = moved(tmp_path / "out")
    case = read_case(folder / "case.json")
    same_maps(case, explanation)
    np.testing.assert_array_equal(case.image, inputs[0, 0].numpy())
    np.testing.assert_array_equal(case.mask, mask)
    np.testing.assert_allclose(case.affine, AFFINE)
    assert (case.name, case.modality) == ("<Case 7>", "MR")
    assert [dict(row) for row in case.scores] == [{**SCORES[0], "hd95": None}]
    assert [map_.layer for map_ in case.maps] == ["features.0"] * 3 + ["features"] * 3 + [None] * 3
    (entry,) = report_folder(folder)
    assert entry.error is None
    assert "case.html" in (folder / "index.html").read_text()


def test_pictures_of_a_batch(tmp_path):
    net = Classifier(2, channels=3).eval()
    inputs = image(2, 3, channels=3)
    masks = inputs[:, 0] > 0.5
    explanation = medcam.explain(net, inputs, method=["gcam", "saliency"], target="all")
    explanation.save(tmp_path / "out" / "x", mask=masks, montage=False, report=False)
    folder = moved(tmp_path / "out")
    entries = list(report_folder(folder))
    assert [entry.name for entry in entries] == [f"x, sample {n}" for n in range(3)]
    assert all(entry.error is None for entry in entries)
    for sample in range(3):
        case = read_case(folder / f"x_{sample}.json")
        same_maps(case, explanation, sample)
        np.testing.assert_array_equal(case.image, inputs[sample].permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(case.mask, masks[sample].numpy())


@pytest.fixture
def _nnunets_own_warnings():
    with warnings.catch_warnings():
        for module in ("nnunetv2", "batchgenerators", "acvl_utils", "torch", "skimage"):
            warnings.filterwarnings("ignore", module=module)
        yield


@pytest.mark.usefixtures("_nnunets_own_warnings")
def test_a_case_of_nnunet(tmp_path):
    first = write_case(tmp_path / "in", make_image(), oblique())
    model = make_folder(tmp_path / "model", folds=(0,))
    explanation = medcam.nnunet.explain(
        model, first, "PZ", method=["gcam", "gbp"], layer=["encoder.stages.1", "encoder.stages.2"],
        tta=False,
    )  # fmt: skip
    files = explanation.save(tmp_path / "out" / "case", report=True)
    assert [path.name for path in files] == [
        "case_gcam_encoder.stages.1.nii.gz", "case_gcam_encoder.stages.2.nii.gz",
        "case_gbp.nii.gz", "case_seg.nii.gz", "case_montage.png", "case.html", "case.json",
    ]  # fmt: skip
    case = read_case(files[-1])
    for shown, expected in zip(case.maps, explanation.maps.values(), strict=True):
        np.testing.assert_array_equal(shown.values, expected)
    np.testing.assert_allclose(case.affine, oblique())
    np.testing.assert_allclose(case.image, make_image()[0])
    page = files[-2].read_text()
    (entry,) = report_folder(tmp_path / "out")
    assert entry.error is None
    assert files[-2].read_text() == page  # the very page that was saved
    plain = explanation.save(tmp_path / "plain" / "case", montage=False)
    assert [path.name for path in plain[-2:]] == ["case_seg.nii.gz", "case.json"]
