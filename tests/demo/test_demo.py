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

pytestmark = pytest.mark.slow  # networks on whole volumes

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
    for task, method, _, wioa, mass, pointing, chance, _ in sheet.iter_rows(
        min_row=2, values_only=True
    ):
        assert min(wioa, mass, pointing) > 3 * chance
        if method == "Guided Backpropagation" and "lungs" in task:
            assert pointing == 7 / 8  # see the test below
        else:
            assert pointing >= 0.9


def test_guided_backpropagation_of_the_lungs_is_strongest_within_them_or_at_their_edge():
    chest = demo.load_lung_slices()
    values = medcam.explain(demo.load_lung_segmenter(), chest.images, method="gbp").map.values
    # 2 pixels more on each side
    wide = torch.nn.functional.max_pool2d(chest.lungs.float(), 5, stride=1, padding=2)
    strongest = torch.as_tensor(values).flatten(1).argmax(1, keepdim=True)
    assert wide.flatten(1).gather(1, strongest).all()


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
@pytest.mark.parametrize(("task", "count", "side"), [("lesion_2d", 16, 64), ("lungs_2d", 8, 128)])
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


def test_all_images_have_the_patients_right_on_the_left():
    lesion, lungs, brain = load_tasks()
    stored = demo.load_lesion_slices()
    present = stored.labels == 1
    # as stored, columns run from the left of the patient to the right
    assert torch.equal(lesion.inputs.flip(-1), stored.images[present])
    assert torch.equal(lesion.masks.flip(-1), stored.masks[present])
    # the slices of the chest are stored from the right of the patient to the left
    assert torch.equal(lungs.inputs, demo.load_lung_slices().images)
    assert lesion.sides == lungs.sides == brain.sides == ("R", "L")


@pytest.mark.parametrize("task", load_tasks()[1:], ids=lambda task: task.name)
def test_maps_of_the_segmentations_are_more_than_the_segmentation(task):
    net = task.load()
    with torch.no_grad():
        positive = net(task.inputs).clamp(min=0)
    layer = task.options["layer"]

    def correlations(layer):
        values = medcam.explain(net, task.inputs, layer=layer, method="gcam").map.values
        pairs = zip(torch.as_tensor(values).flatten(1), positive.flatten(1), strict=True)
        return [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]

    assert max(correlations(layer)) < 0.95
    assert min(correlations("decoder1")) > 0.99  # the layer before the head


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("task", load_tasks()[1:], ids=lambda task: task.name)
def test_the_segmentations_use_their_layers(task):
    # no warning that the layer is hardly used, or that Grad-CAM is not faithful there
    for method in METHODS[1:]:
        explanation = medcam.explain(
            task.load(), task.inputs, layer=task.options["layer"], method=method
        )
        assert (explanation.map.values.flatten(1).abs().sum(1) > 0).all()


def test_grad_cam_of_the_brain_net_is_inside_the_brain():
    head = demo.load_head()
    mask = demo.brain_mask_for_network(head)
    explanation = medcam.explain(demo.load_brain_segmenter(), head.image, method="gcam")
    values = explanation.map.values
    assert (values * mask).sum() / values.sum() >= 0.9


def test_grad_cam_of_the_nuclei_net_needs_a_fine_layer():
    nuclei, net = demo.load_nuclei(), demo.load_nuclei_segmenter()

    def mass(layer):
        values = medcam.explain(net, nuclei.images, layer=layer, method="gcam").map.values
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
