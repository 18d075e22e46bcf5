"""Benchmarks: the measurements, the tables, and the page with the last figures."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def cell(table: str, row: str, column: str) -> dict[str, float]:
    done = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, FOLDER / "measure.py", table, row, column],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "library", "share"),
    [
        ("ResNet50 B=1, layer4", "captum", 0.1),
        ("nnU-Net 64³, last decoder stage", "captum", 0.1),
        ("nnU-Net 64³, bottleneck", "torchcam", 0.5),
    ],
)
def test_bytes_saved_beside_a_peers(case, library, share):
    ours, theirs = cell("gradcam", case, "medcam"), cell("gradcam", case, library)
    assert 0 <= ours["saved"] <= share * theirs["saved"]
    assert ours["ratio"] > 0
    assert ours["to_floor"] > 0


def small(tmp_path: Path) -> tuple[object, dict[str, object]]:
    """The runner, and results with made-up figures for all tables."""
    run = importlib.import_module("run")
    figure = {"ratio": 1.0149, "to_floor": 1.004, "saved": 2.5e6, "peak": 3 * 2**20}
    cells = {}
    for table in run.TABLES:
        module = importlib.import_module(table)
        entry = {"value": 0.4321} if table == "host" else figure
        cells[table] = {row: dict.fromkeys(module.COLUMNS, entry) for row in module.ROWS}
    cells["gradcam"]["ResNet50 B=1, layer4"]["MONAI"] = None
    return run, {
        "date": "2030-01-02", "machine": "a", "threads": 2, "torch": "9", "load": ["0.1", "0.2"],
        "minutes": 1.0, "cells": cells,
    }  # fmt: skip


def test_the_tables_say_what_was_measured(tmp_path):
    run, result = small(tmp_path)
    page = tmp_path / "README.md"
    page.write_text(f"before\n{run.BEGIN}\nold\n{run.END}\nafter\n", encoding="utf-8")
    run.write_results(result, tmp_path / "results", page)
    text = (tmp_path / "results/latest.md").read_text(encoding="utf-8")
    assert text in page.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").startswith("before\n")
    assert page.read_text(encoding="utf-8").endswith("after\n")
    assert "old" not in page.read_text(encoding="utf-8")
    assert "2030-01-02" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| ResNet50 B=1")]
    parts = [part.strip() for part in row.strip("|").split("|")]
    assert parts[1:3] == ["≤ 1.05×", "1.01× (1.00) / 2.5 / 3"]
    assert parts[-1] == "–"
    assert "| 0.432 |" in text
    assert json.loads((tmp_path / "results/latest.json").read_text()) == result
    with Image.open(tmp_path / "results/latest.png") as chart:
        assert len(chart.convert("RGB").getcolors(2**20)) > 50


def test_the_page_shows_the_last_figures():
    run = importlib.import_module("run")
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    shown = page.partition(run.BEGIN)[2].partition(run.END)[0].strip()
    assert shown == (FOLDER / "results/latest.md").read_text(encoding="utf-8").strip()
    result = json.loads((FOLDER / "results/latest.json").read_text(encoding="utf-8"))
    assert shown == run.report_text(result).strip()
    assert list(result["cells"]) == run.TABLES
    assert "results/latest.png" in page


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())


@pytest.mark.slow
def test_a_cell_is_measured_beside_the_floor(monkeypatch):
    cases, libraries, measure = map(importlib.import_module, ("cases", "libraries", "measure"))
    case = cases.Case(net, (2, 1, 32, 32), "0")
    figures = measure.cell(case, libraries.ours(), floor=libraries.floor, budget=0.0)
    assert figures["rounds"] == measure.LEAST
    assert "saved" not in measure.cell(case, libraries.ours(), budget=0, least=1, count_saved=False)
    assert figures["ratio"] > 1
    assert figures["to_floor"] > 0
    assert figures["saved"] >= 0


@pytest.mark.parametrize("name", ["floor", "captum", "torchcam", "pytorch_grad_cam", "monai"])
def test_all_libraries_make_the_same_map(name):
    libraries = importlib.import_module("libraries")
    model, x = net().eval(), torch.rand(2, 1, 8, 8)
    ours = libraries.quiet(libraries.ours(), model, "0")(x).map.values[:, 0]
    model, x = (
        model.requires_grad_(True),
        x[:1] if name == "monai" else x,
    )  # MONAI mixes the samples of a batch
    theirs = libraries.quiet(getattr(libraries, name), model, "0")(x)
    theirs = torch.as_tensor(theirs[0] if isinstance(theirs, list) else theirs).reshape(
        len(x), *theirs[0].shape[-2:]
    )
    if theirs.shape == (len(x), *ours.shape[1:]) and name in ("floor", "captum", "torchcam"):
        torch.testing.assert_close(theirs.detach(), ours)
    else:  # these libraries scale maps to [0, 1] and to the size of the input
        assert torch.isfinite(theirs).all()


@pytest.mark.parametrize("row", ["Guided Backprop", "Guided Grad-CAM", 'Grad-CAM of "full"'])
def test_the_floors_of_guided_maps_do_the_same_work(row):
    guided = importlib.import_module("guided")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1),
                          nn.Flatten()).eval()  # fmt: skip
    maps = guided.MAKERS[row, "floor"](model, "1")(torch.rand(2, 1, 9, 9))
    shapes = [tuple(part.shape) for part in (maps if isinstance(maps, list) else [maps])]
    assert shapes == ([(2, 7, 7), (2, 5, 5)] if "full" in row else [(2, 1, 9, 9)])


def test_without_a_gpu_nothing_is_written(capsys, monkeypatch, tmp_path):
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "results")
    if not torch.cuda.is_available():
        assert gpu.main() == 1
        assert "no CUDA GPU" in capsys.readouterr().out
        assert not (tmp_path / "results").exists()
    text = gpu.report({"a net": ["1.0 / 2", "fails"]}, ["plain", "peer"], "some GPU")
    assert "| a net | 1.0 / 2 | fails |" in text
    assert "some GPU" in text
    dtypes = []
    gpu.under_autocast(lambda x: dtypes.append(torch.get_autocast_dtype("cpu")), "cpu")(None)
    assert dtypes == [torch.bfloat16]
    assert all(row in gpu.CASES for row in gpu.ROWS)


def test_host_figures():
    host = importlib.import_module("host")
    assert math.isfinite(host.cell(host.ROWS[4], "medcam")["value"])
    assert host.importing(1) > 0
