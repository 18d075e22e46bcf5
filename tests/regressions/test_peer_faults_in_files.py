"""Faults of other libraries in scores and files, each as a test that medcam does not have it."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

import medcam
from support.nets import Classifier, UNet, image


@pytest.fixture
def net():
    return Classifier().double().eval()


@pytest.fixture
def x():
    return image().double()


@pytest.fixture
def mask():
    mask = torch.zeros(2, 1, 12, 12)
    mask[:, :, :, :5] = 1
    return mask


def mass(net, x, mask, **options):
    """Return the relevance mass of each sample's raw map, by its definition."""
    maps = medcam.explain(net, x, layer="features.4", **options).map.numpy().clip(min=0)
    return ((maps * mask.numpy()).sum((1, 2, 3)) / maps.sum((1, 2, 3))).tolist()


# --------------------------------------------------------------------------------------- scores


def test_evaluation_runs_on_current_numpy_and_pandas(net, x, mask, tmp_path):
    # original: np.float and DataFrame.append are gone since numpy 1.24 and pandas 2
    model = medcam.inject(
        net,
        output_dir=tmp_path,
        backend="hirescam",
        layer="features.4",
        label=1,
        evaluate=True,
        save_scores=True,
        return_score=True,
        metric="relevance_mass",
    )
    _, scores = model(x, mask)
    expected = mass(net, x, mask, method="hirescam", target=1)
    assert scores["features.4"] == pytest.approx(expected, rel=1e-9)
    model.dump()
    sheets = pd.read_excel(tmp_path / "scores.xlsx", sheet_name=None)
    table, means = sheets["Scores"], sheets["Mean Scores"]
    assert table["evaluation"].tolist() == pytest.approx(expected, rel=1e-9)
    assert table["layer"].tolist() == ["features.4"] * 2
    assert table["class_label"].tolist() == [1, 1]
    assert means["mean_score"].tolist() == pytest.approx([sum(expected) / 2], rel=1e-9)
    with Image.open(tmp_path / "mean_scores.png") as chart:
        assert len(chart.convert("L").getcolors()) > 2


def test_a_callable_metric_is_called(net, x, mask, tmp_path):
    # original: crashes
    def mean_inside(attention, truth):
        return attention[truth].mean()

    model = medcam.inject(
        net,
        output_dir=tmp_path,
        layer="features.4",
        backend="hirescam",
        label=1,
        evaluate=True,
        return_score=True,
        metric=mean_inside,
    )
    _, scores = model(x, mask)
    found = medcam.explain(net, x, layer="features.4", method="hirescam", target=1).map.numpy()
    found = found.clip(min=0)
    expected = [found[i][mask[i].bool().numpy()].mean() for i in range(2)]
    assert scores["features.4"] == pytest.approx(expected, rel=1e-9)

    evaluator = medcam.Evaluator(tmp_path, metric=mean_inside)
    assert evaluator.comp_score(np.array([[1.0, 5.0]]), np.array([[0, 1]])) == 5.0


def test_the_papers_call_gives_the_mask_second(net, x, mask, tmp_path):
    # original: model.forward(input, mask), as the paper writes it, takes the mask for a label
    model = medcam.inject(
        net, output_dir=tmp_path, layer="features.4", evaluate=True, return_score=True
    )
    by_position = model.forward(x, mask)[1]
    found = model.get_attention_map()
    by_name = model(x, mask=mask)[1]
    assert by_position == by_name
    assert len(by_position["features.4"]) == 2
    model = medcam.inject(net, layer="features.4")
    model(x)  # the mask changed nothing about what is explained
    assert np.array_equal(model.get_attention_map(), found)


@pytest.mark.parametrize("label", [1, torch.tensor(1), torch.tensor([1, 1]), "best"])
def test_a_label_as_second_argument_is_a_label(net, x, label):
    model = medcam.inject(net, layer="features.4", backend="hirescam", normalize=False)
    model(x, label)
    target = label if isinstance(label, str) else 1
    expected = medcam.explain(net, x, layer="features.4", method="hirescam", target=target)
    assert expected.map.numpy().any()
    assert np.array_equal(model.get_attention_map(), expected.map.numpy())


@pytest.mark.parametrize("metric", sorted({"wioa", "ioa", "iou", "dice", "relevance_mass"}))
def test_scores_of_an_empty_mask_are_nan(metric):
    # original: 0; a mean over them is too low
    assert math.isnan(medcam.compute_score(np.eye(4), np.zeros((4, 4)), metric=metric))


def test_pointing_game_of_an_empty_mask_is_nan():
    # Quantus: 1.0
    hits = np.array([[0.0, 1.0], [0.0, 0.0]])
    assert math.isnan(medcam.compute_score(hits, np.zeros((2, 2)), metric="pointing_game"))
    assert medcam.compute_score(hits, hits, metric="pointing_game") == 1
    assert medcam.compute_score(hits, hits.T, metric="pointing_game") == 0


def test_volumes_are_scored_without_saying_that_they_are():
    # Quantus: 3D shapes need channel_first=...
    found = np.zeros((3, 4, 5))
    found[1, 2, 3], found[0, 0, 0] = 3, 1
    truth = np.zeros((3, 4, 5))
    truth[1, 2, 3] = 1
    assert medcam.compute_score(found, truth, metric="relevance_mass") == 0.75
    both = found[None, None], torch.from_numpy(truth)[None, None]
    assert medcam.compute_score(*both, metric="relevance_mass") == 0.75


# ---------------------------------------------------------------------------------------- files

AFFINE = np.array(  # 30° about the third axis, with another spacing along each
    [
        [1.2 * np.cos(np.pi / 6), -0.8 * np.sin(np.pi / 6), 0.0, -31.5],
        [1.2 * np.sin(np.pi / 6), 0.8 * np.cos(np.pi / 6), 0.0, 12.25],
        [0.0, 0.0, -5.0, 7.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


@pytest.mark.parametrize("way", ["MetaTensor", "affine", "file"])
def test_nifti_lies_on_its_image(way, tmp_path):
    # original: affine eye(4), the axes transposed, uint8, at the layer's size
    x = torch.rand(1, 1, 6, 8, 10)
    source = nib.Nifti1Image(x[0, 0].numpy(), AFFINE)
    nib.save(source, tmp_path / "image.nii.gz")
    reference = {"MetaTensor": None, "affine": AFFINE, "file": tmp_path / "image.nii.gz"}[way]
    net = UNet(3).eval()
    model = medcam.inject(
        net,
        output_dir=tmp_path / "out",
        layer="bottleneck",
        backend="hirescam",
        label=medcam.targets.class_score(1),
        save_maps=True,
        reference=reference,
    )
    given = MetaTensor(x, affine=torch.from_numpy(AFFINE)) if way == "MetaTensor" else x
    with torch.no_grad():
        model(given)
    saved = nib.load(tmp_path / "out" / "bottleneck" / "attention_map_0_0_0.nii.gz")
    assert saved.shape == (6, 8, 10)
    assert saved.get_data_dtype() == np.float32
    assert np.allclose(saved.affine, AFFINE, atol=1e-5)
    expected = medcam.explain(
        net, x, layer="bottleneck", method="hirescam", target=medcam.targets.class_score(1)
    ).map.numpy()[0, 0]
    assert (expected < 0).any()
    assert np.array_equal(saved.get_fdata(dtype=np.float32), expected)


@pytest.mark.parametrize("size", [(20, 30), (7, 64)])
def test_a_picture_has_the_images_size(size, tmp_path):
    # original: 500 pixels, whatever the image
    net, x = Classifier().eval(), torch.rand(2, 1, *size)
    model = medcam.inject(net, output_dir=tmp_path, layer="features.4", label=1, save_maps=True)
    model(x, raw_input=x)
    for sample in range(2):
        with Image.open(tmp_path / "features.4" / f"attention_map_0_{sample}_0.png") as picture:
            assert picture.size == size[::-1]
            assert len(set(picture.convert("L").tobytes())) > 8, "nothing is drawn"


@pytest.mark.parametrize("dims", [2, 3])
def test_full_with_a_linear_layer_saves_the_others(dims, tmp_path):
    # original: crashes when it saves the Linear layer's map
    net, x = Classifier(dims).eval(), image(dims, size=8)
    affine = np.diag([2.0, 2, 2, 1])
    model = medcam.inject(
        net, output_dir=tmp_path, layer="full", label=1, save_maps=True, reference=affine
    )
    model(x)
    layers = {"features", *(f"features.{i}" for i in range(5))}
    assert set(model.get_attention_map()) == layers
    assert {path.name for path in tmp_path.iterdir()} == layers
    assert len(list(tmp_path.rglob("attention_map_0_*_0.*"))) == 2 * len(layers)
    found = medcam.explain(net, x, layer="full", target=1)
    assert set(found.skipped) == {"head"}
    assert "does not lie on the input" in found.skipped["head"]
    if dims == 3:
        path = tmp_path / "features.2" / "attention_map_0_1_0.nii.gz"
        expected = found.maps["features.2"].numpy()[1, 0]
        assert np.array_equal(nib.load(path).get_fdata(dtype=np.float32), expected)
