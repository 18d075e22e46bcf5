"""The main job on the packaged data: it runs, it is right, and anybody can read what it wrote."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import openpyxl
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from typer.testing import CliRunner

import medcam
from medcam import demo
from medcam.cli import app

METHODS = ["gbp", "gcam", "ggcam", "gcampp"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    result = CliRunner().invoke(app, ["demo", "--output", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0
    return folder, result.output


def test_the_table_and_the_excel_file_hold_every_method_and_task(written):
    folder, output = written
    assert all(title in output for title in ("Grad-CAM++", "Guided Grad-CAM", "scores.xlsx"))
    sheet = openpyxl.load_workbook(folder / "scores.xlsx")["Scores"]
    rows = list(sheet.iter_rows(min_row=2, values_only=True))
    assert len(rows) == 12
    assert all(isinstance(value, (int, float)) for row in rows for value in row[3:6])


@pytest.mark.parametrize("method", METHODS)
def test_3d_maps_lie_on_the_head(written, method):
    folder, _ = written
    (path,) = (folder / "brain_3d" / method).rglob("*.nii.gz")
    head = nib.load(demo.load_head().path)
    saved, seen = nib.load(path), sitk.ReadImage(str(path))
    assert saved.shape == head.shape
    assert saved.get_data_dtype() == np.float32
    np.testing.assert_allclose(saved.affine, head.affine)
    reference = sitk.ReadImage(str(demo.load_head().path))
    np.testing.assert_allclose(seen.GetOrigin(), reference.GetOrigin())
    np.testing.assert_allclose(seen.GetDirection(), reference.GetDirection())
    assert np.isfinite(saved.get_fdata()).all()
    assert saved.get_fdata().any()


@pytest.mark.parametrize("method", METHODS)
def test_2d_maps_are_pictures_of_the_slices_size(written, method):
    folder, _ = written
    paths = sorted((folder / "lesion_2d" / method).rglob("attention_map_*.png"))
    assert len(paths) == 16
    with Image.open(paths[0]) as picture:
        assert picture.size == (64, 64)
        assert np.asarray(picture).std() > 10


def test_the_figure_shows_something(written):
    folder, _ = written
    with Image.open(folder / "gallery.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), float)
    assert min(pixels.shape[:2]) > 500
    assert pixels.std() > 30


def test_grad_cam_of_the_brain_net_is_inside_the_brain():
    head = demo.load_head()
    mask = demo.brain_mask_for_network(head)
    explanation = medcam.explain(demo.load_brain_segmenter(), head.image)
    values = explanation.map.values
    assert (values * mask).sum() / values.sum() >= 0.9


def test_the_brain_nets_segmentation_is_right_through_the_injected_model():
    head = demo.load_head()
    model = medcam.inject(demo.load_brain_segmenter())
    with torch.no_grad():
        logits = model(head.image)
    found = torch.nn.functional.interpolate(logits, head.mask.shape, mode="trilinear")[0, 0] > 0
    truth = torch.from_numpy(head.mask)
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice >= 0.95


def test_grad_cam_of_the_lesion_net_points_at_the_lesions():
    slices = demo.load_lesion_slices()
    present = slices.labels == 1
    net = demo.load_lesion_classifier()
    values = medcam.explain(net, slices.images[present], target=1).map.values.numpy()
    hits = [
        medcam.compute_score(value[0], mask[0], "pointing_game")
        for value, mask in zip(values, slices.masks[present].numpy(), strict=True)
    ]
    assert np.mean(hits) >= 0.8


def test_an_untrained_lesion_net_does_not(written):
    slices = demo.load_lesion_slices()
    present = slices.labels == 1
    hits = []
    for seed in range(5):
        torch.manual_seed(seed)
        values = medcam.explain(
            demo.LesionNet().eval(), slices.images[present], target=1, method="layercam"
        ).map.values.numpy()
        hits += [
            medcam.compute_score(value[0], mask[0], "pointing_game")
            for value, mask in zip(values, slices.masks[present].numpy(), strict=True)
        ]
    assert np.mean(hits) < 0.4
