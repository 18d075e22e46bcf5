"""Signals on disk: raw values, curves, the page and the record, and the pages made again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import nn

import medcam
from medcam.errors import InputError
from medcam.explanation.case.reading import read_case, report_folder


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 8, 5, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2)
    ).eval()  # fmt: skip


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(1, 2, 300)


def width_of(path):
    with Picture.open(path) as picture:
        return picture.size[0]


def saved(explanation, folder, **options):
    paths = explanation.save(folder / "ecg", **options)
    return {path.name: path for path in paths}


def test_a_case_of_a_signal(net, x, tmp_path):
    explanation = medcam.explain(net, x, target=1, method=["gcam", "saliency"])
    mask = np.arange(300) < 50
    rate = {"sampling_rate": 250}
    files = saved(explanation, tmp_path, mask=mask, extra=rate, scores=[{"dice": 0.5}])
    assert set(files) == {
        "ecg_gcam.npy", "ecg_gcam.png", "ecg_saliency.npy", "ecg_saliency.png", "ecg_image.npy",
        "ecg_mask.npy", "ecg_montage.png", "ecg.html", "ecg.json",
    }  # fmt: skip
    for method in ("gcam", "saliency"):
        values = np.load(files[f"ecg_{method}.npy"])
        assert values.dtype == np.float32
        item = next(item for key, item in explanation.maps.items() if key[0] == method)
        np.testing.assert_array_equal(values, item.values[0, 0].numpy())
    np.testing.assert_array_equal(np.load(files["ecg_image.npy"]), x[0].numpy())
    assert width_of(files["ecg_gcam.png"]) == 1350
    record = json.loads(files["ecg.json"].read_text())
    assert [entry["shape"] for entry in record["maps"]] == [[300], [300]]
    page = files["ecg.html"].read_text()
    assert "2 channels · 300 samples · 1.2 s at 250 Hz" in page
    assert page.count("data:image/png;base64,") == 1
    assert "<script" not in page
    assert "0.500" in page


def test_a_saved_case_is_read_back_and_its_page_made_again(net, x, tmp_path):
    explanation = medcam.explain(net, x, target=1)
    predicted = np.where(np.arange(300) > 200, 2, 0)
    files = saved(explanation, tmp_path, segmentation=predicted, extra={"sampling_rate": 250})
    scene = read_case(files["ecg.json"])
    assert scene.is_signal
    assert scene.sampling_rate == 250
    np.testing.assert_array_equal(scene.image, x[0].numpy())
    np.testing.assert_array_equal(scene.maps[0].values, explanation.map.values[0, 0].numpy())
    np.testing.assert_array_equal(scene.segmentation, predicted)
    before = files["ecg.html"].read_text()
    (entry,) = report_folder(tmp_path)
    assert entry.error is None
    assert entry.picture.startswith("data:image/png;base64,")
    curves = [text.split("data:image/png;base64,")[1].split('"')[0]
              for text in (before, files["ecg.html"].read_text())]  # fmt: skip
    assert curves[0] == curves[1]


def test_each_sample_of_a_batch_is_a_case(net, tmp_path):
    x = torch.randn(2, 2, 64)
    files = saved(medcam.explain(net, x, target=1), tmp_path)
    np.testing.assert_array_equal(np.load(files["ecg_1_image.npy"]), x[1].numpy())


def test_show_and_the_notebook_have_the_curve(net, x):
    explanation = medcam.explain(net, x, target=1)
    page = explanation.show(browser=False, sampling_rate=100).read_text()
    assert "3 s at 100 Hz" in page
    cell = explanation._repr_html_()
    assert "data:image/png;base64," in cell
    assert "class 1" in cell
    assert len(cell) < 300_000


def test_signals_from_files(net, x, tmp_path):
    path = tmp_path / "signal.npy"
    np.save(path, x[0].numpy())
    figure = medcam.montage(medcam.explain(net, x, target=1), path)
    assert [axes.get_gid() for axes in figure.axes][:2] == ["map:0:channel:0", "map:0:channel:1"]
    np.save(path, np.zeros((1, 2, 300)))
    with pytest.raises(InputError, match=r"a signal is \[time\] or \[channels, time\]"):
        medcam.montage(medcam.explain(net, x, target=1), path)


# --------------------------------------------------------------------------------------- one file


def test_one_map_as_a_curve_and_as_values(x, tmp_path):
    values = torch.rand(300)
    assert medcam.save(values, tmp_path / "map", raw_input=x[0]).name == "map.png"
    assert width_of(tmp_path / "map.png") == 1350
    raw = np.load(medcam.save(values, tmp_path / "map.npy"))
    np.testing.assert_array_equal(raw, values.numpy())


def test_injected_models_save_curves_and_values(net, x, tmp_path):
    injected = medcam.inject(net, output_dir=tmp_path, save_maps=True, label=1, layer=["0", "1"])
    injected(torch.cat([x, -x]))
    names = {path.relative_to(tmp_path).as_posix() for path in Path(tmp_path).rglob("*.*")}
    assert names == {
        f"{layer}/attention_map_0_{sample}_0.{ending}"
        for layer in ("0", "1") for sample in (0, 1) for ending in ("png", "npy")
    }  # fmt: skip
    expected = medcam.explain(net, -x, target=1, layer="1").map.values[0, 0]
    found = np.load(tmp_path / "1" / "attention_map_0_1_0.npy")
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-7)


def test_injected_models_score_maps_against_masks_of_signals(net, x, tmp_path):
    injected = medcam.inject(
        net, output_dir=tmp_path, evaluate=True, metric="relevance_mass", label=1,
        return_score=True,
    )  # fmt: skip
    mask = (torch.arange(300) < 100)[None]  # [batch, time]
    _, score = injected(x, mask=mask)
    values = medcam.explain(net, x, target=1).map.values[0, 0]
    assert score["1"] == pytest.approx([float(values[:100].sum() / values.sum())], abs=1e-6)
    injected.dump()
    assert (tmp_path / "scores.xlsx").exists()


def test_surface_distances_along_a_signal_are_in_samples():
    attention = np.where((np.arange(100) >= 30) & (np.arange(100) < 40), 1.0, 0.0)
    mask = (np.arange(100) >= 33) & (np.arange(100) < 45)
    distances = {metric: medcam.compute_score(attention, mask, metric=metric, threshold=0.5)
                 for metric in ("assd", "centroid_distance")}  # fmt: skip
    # edges 30, 39 of the map and 33, 44 of the mask: 3, 5 and 3, 5
    assert distances["assd"] == pytest.approx(4.0)
    assert distances["centroid_distance"] == pytest.approx(38.5 - 34.5)
    assert medcam.compute_score(
        attention, mask, metric="assd", threshold=0.5, spacing=(0.004,)
    ) == pytest.approx(0.016)
