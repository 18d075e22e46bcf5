"""``medcam demo``: its tables, scores and files, and the maps of the packaged networks."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

import medcam
from medcam import demo, methods
from medcam.demo.tasks import load_tasks

METHODS = ["gbp", "gcam", "ggcam", "gcampp"]
TITLES = ["2D classification", "2D segmentation", "3D segmentation"]
README_PICTURE = Path(__file__).parents[2] / "docs" / "images" / "gallery.png"


def test_the_tables_hold_every_method_and_task(written):
    folder, output = written
    for title in (*TITLES, *(methods.get(name).title for name in METHODS)):
        assert title in output
    assert f"open    {folder / 'index.html'}" in output
    sheet = openpyxl.load_workbook(folder / "scores.xlsx")["Scores"]
    header, *rows = sheet.iter_rows(values_only=True)
    assert header[3:] == ("wioa", "relevance_mass", "pointing_game", "by chance", "images")
    assert [row[0].split(":")[0] for row in rows] == [title for title in TITLES for _ in METHODS]
    assert [row[-1] for row in rows] == [16] * 4 + [8] * 4 + [1] * 4


def test_every_map_is_far_better_than_chance(written):
    folder, _ = written
    sheet = openpyxl.load_workbook(folder / "scores.xlsx")["Scores"]
    for *_, wioa, mass, pointing, chance, _ in sheet.iter_rows(min_row=2, values_only=True):
        assert min(wioa, mass, pointing) > 3 * chance
        assert pointing >= 0.9


def test_scores_are_of_the_saved_maps(written):
    folder, _ = written
    sheet = openpyxl.load_workbook(folder / "scores.xlsx")["Scores"]
    last = list(sheet.iter_rows(values_only=True))[-1]  # Grad-CAM++ of the brain
    (path,) = (folder / "brain_3d" / "gcampp").rglob("*.nii.gz")
    saved, mask = nib.load(path).get_fdata(), demo.load_head().mask
    assert last[4] == pytest.approx(saved[mask].sum() / saved.sum(), rel=1e-4)
    assert last[6] == pytest.approx(mask.mean())


@pytest.mark.parametrize("method", METHODS)
def test_3d_maps_lie_on_the_head(written, method):
    folder, _ = written
    (path,) = (folder / "brain_3d" / method).rglob("*.nii.gz")
    head = nib.load(demo.load_head().path)
    saved, image = nib.load(path), sitk.ReadImage(str(path))
    assert saved.shape == head.shape
    assert saved.get_data_dtype() == np.float32
    np.testing.assert_allclose(saved.affine, head.affine)
    reference = sitk.ReadImage(str(demo.load_head().path))
    np.testing.assert_allclose(image.GetOrigin(), reference.GetOrigin())
    np.testing.assert_allclose(image.GetDirection(), reference.GetDirection())
    assert np.isfinite(saved.get_fdata()).all()
    assert saved.get_fdata().any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("task", "count", "side"), [("lesion_2d", 16, 64), ("nuclei_2d", 8, 128)])
def test_2d_maps_are_pictures_of_the_images_size(written, method, task, count, side):
    folder, _ = written
    paths = sorted((folder / task / method).rglob("attention_map_*.png"))
    assert len(paths) == count
    with Image.open(paths[0]) as picture:
        assert picture.size == (side, side)
        assert np.asarray(picture).std() > 10


def test_the_readmes_picture_is_the_figure_of_today(written):
    folder, _ = written
    with Image.open(folder / "gallery.png") as made, Image.open(README_PICTURE) as shown:
        assert made.size == shown.size
        pixels = [np.asarray(picture.convert("RGB"), float) for picture in (made, shown)]
    # Other processors round differently. To update the picture: `make demo`, then copy the file.
    difference = np.abs(pixels[0] - pixels[1]).mean(2)
    rows, columns = (extent // 50 for extent in difference.shape)
    patches = difference[: rows * 50, : columns * 50].reshape(rows, 50, columns, 50)
    assert patches.mean((1, 3)).max() < 10


def test_both_heads_have_the_patients_right_on_the_left():
    lesion, _, brain = load_tasks()
    stored = demo.load_lesion_slices()
    present = stored.labels == 1
    # as stored, columns run from the left of the patient to the right
    assert torch.equal(lesion.inputs.flip(-1), stored.images[present])
    assert torch.equal(lesion.masks.flip(-1), stored.masks[present])
    assert lesion.sides == brain.sides == ("R", "L")


def test_grad_cam_of_the_brain_net_is_inside_the_brain():
    head = demo.load_head()
    mask = demo.brain_mask_for_network(head)
    explanation = medcam.explain(demo.load_brain_segmenter(), head.image)
    values = explanation.map.values
    assert (values * mask).sum() / values.sum() >= 0.9


def test_grad_cam_of_the_nuclei_net_needs_a_fine_layer():
    nuclei, net = demo.load_nuclei(), demo.load_nuclei_segmenter()

    def mass(layer):
        values = medcam.explain(net, nuclei.images, layer=layer).map.values
        return float((values * nuclei.masks).sum() / values.sum())

    assert mass("auto") < 0.4
    assert mass("decoder2") > 0.9


def test_the_brain_nets_segmentation_is_right_through_the_injected_model():
    head = demo.load_head()
    model = medcam.inject(demo.load_brain_segmenter())
    with torch.no_grad():
        logits = model(head.image)
    predicted = torch.nn.functional.interpolate(logits, head.mask.shape, mode="trilinear")[0, 0] > 0
    truth = torch.from_numpy(head.mask)
    dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
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


def test_layercam_of_an_untrained_lesion_net_does_not_point_at_the_lesions():
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
