"""``medcam check`` and ``medcam explain --check`` as they are typed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from medcam import demo
from medcam.cli import app
from medcam.explanation.case.reading import read_case

MODEL = ["--model", "medcam.demo:load_lesion_classifier", "--channels"]
FEW = ["--sets", "8", "--networks", "1"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slices")
    slices = demo.load_lesion_slices()
    for number, image in enumerate(slices.images[slices.labels == 1][:3]):
        np.save(folder / f"s{number}.npy", image.numpy())
    return [str(folder / f"s{number}.npy") for number in range(3)]


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_it_prints_a_table_the_cost_and_the_map_to_use(images):
    result = run("check", *MODEL, "-i", images[0], "--also", images[1], "--also", images[2],
                 "--layer", "relu6", "--target", "1", "--sets", "24")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "cost: 24 sets x 2 fills + 1 prediction + 1 layer left out, each of 3" in result.stderr
    for text in ("Grad-CAM (relu6)", "knows the weights", "is faithful", "fails", "passes"):
        assert text in result.stdout
    assert "Use " in result.stdout


def test_json_is_the_record(images):
    result = run("check", *MODEL, "-i", images[0], "--method", "gcam", "--layer", "relu4",
                 "--layer", "relu6", *FEW, "--json", "--against", "0", "--seed", "3")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert [item["layer"] for item in record["maps"]] == ["relu4", "relu6"]
    assert record["seed"] == 3
    assert "class 0" in record["maps"][0]["criteria"]["T3"]["sentence"]
    assert "cost" not in result.stderr


def test_a_budget_cuts(images):
    result = run("check", *MODEL, "-i", images[0], "--method", "gcam", "--layer", "relu6",
                 "--budget", "160")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "of 96 sets" in result.stdout
    assert run("check", *MODEL, "-i", images[0], "--budget", "3").exit_code == 2


def test_images_of_another_shape_are_refused(images, tmp_path):
    np.save(tmp_path / "other.npy", np.zeros((1, 32, 32), np.float32))
    result = run("check", *MODEL, "-i", images[0], "--also", str(tmp_path / "other.npy"), *FEW)
    assert result.exit_code == 2
    assert "[1, 32, 32]" in result.stderr
    assert "[1, 64, 64]" in result.stderr


def test_explain_writes_the_verdict_into_the_record_and_the_page(images, tmp_path):
    result = run("explain", *MODEL, "-i", images[0], "--also", images[1], "-o", str(tmp_path),
                 "--method", "gcam", "--method", "hirescam", "--layer", "relu4", "--target", "1",
                 "--check", "--budget", "600")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "Grad-CAM (relu4)" in result.stdout
    record = json.loads((tmp_path / "s0.json").read_text())
    words = {item["method"]: item["verdict"] for item in record["extra"]["check"]["maps"]}
    assert words["gcam"] == "fails"
    assert words["hirescam"] in ("passes", "undecided")
    page = (tmp_path / "s0.html").read_text()
    for text in ("Can the maps be trusted?", "Grad-CAM (relu4)", "data-bad", "cannot show"):
        assert text in page
    sentence = record["extra"]["check"]["maps"][0]["criteria"]["T4"]["sentence"]
    assert sentence in page
    (tmp_path / "s0.html").unlink()
    assert run("report", str(tmp_path)).exit_code == 0
    assert sentence in (tmp_path / "s0.html").read_text()
    assert read_case(tmp_path / "s0.json").check["target"] == "class 1"


def test_json_of_explain_holds_the_check(images, tmp_path):
    result = run("explain", *MODEL, "-i", images[0], "-o", str(tmp_path), "--layer", "relu6",
                 "--check", "--budget", "300", "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["check"]["maps"][0]["method"] == "gcam"


@pytest.mark.parametrize(
    "options", [["--placement", "resize"], ["--slice-axis", "0"], ["--also", "other.npy"]], ids=str
)
def test_what_cannot_be_checked_is_refused_before_the_model_runs(
    options, images, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    np.save("other.npy", np.zeros((1, 32, 32), np.float32))
    monkeypatch.setattr(demo.LesionNet, "forward", None)
    result = run("explain", *MODEL, "-i", images[0], "-o", "out", "--check", *options)
    assert result.exit_code == 2, result.output
    assert "check" in result.stderr


NUCLEI = ["--model", "medcam.demo:load_nuclei_segmenter", "--channels", "--target", "1"]


@pytest.fixture(scope="module")
def tile(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiles") / "tile.npy"
    np.save(path, demo.load_nuclei().images[0].numpy())
    return str(path)


def test_the_method_that_is_written_is_the_one_that_is_checked(tile, tmp_path):
    """By default that is LayerCAM for a class, though parts are checked one by one."""
    result = run("explain", *NUCLEI, "-i", tile, "-o", str(tmp_path), "--check", "--layer",
                 "decoder2", "--budget", "400")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    record = json.loads((tmp_path / "tile.json").read_text())
    written = [item["method"] for item in record["maps"]]
    checked = record["extra"]["check"]
    assert [item["method"] for item in checked["maps"]] == written == ["layercam"]
    assert checked["files"] == ["tile.npy"]
    assert checked["images"] == 1
    assert "checked: class 1: the largest structures, one by one; 1 image\n" in result.stdout


@pytest.mark.parametrize("command", ["check", "explain"])
def test_a_model_that_does_not_run_is_told_in_one_line(command, tmp_path):
    np.save(tmp_path / "odd.npy", np.random.default_rng(0).random((1, 61, 67), np.float32))
    options = ["-o", str(tmp_path / "out")] if command == "explain" else FEW
    result = run(command, *NUCLEI, "-i", str(tmp_path / "odd.npy"), *options)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert "Error: The model does not run on an input of shape [1, 1, 61, 67]" in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2  # there is a warning without --weights


def test_a_check_that_fails_loses_no_map(tile, tmp_path):
    result = run("explain", *NUCLEI, "-i", tile, "-o", str(tmp_path), "--check", "--layer",
                 "decoder2", "--budget", "3")  # fmt: skip
    assert result.exit_code == 2
    assert "The maps are written, but could not be checked: budget=3" in result.stderr
    assert (tmp_path / "tile_layercam.tif").exists()
    assert (tmp_path / "tile.html").exists()
    assert "check" not in json.loads((tmp_path / "tile.json").read_text())["extra"]


def test_ctrl_c_during_the_check_loses_no_map(tile, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("medcam.trust.assessment.fill_bank", stop)
    result = run("explain", *NUCLEI, "-i", tile, "-o", str(tmp_path), "--check", "--layer",
                 "decoder2", "--budget", "400")  # fmt: skip
    assert result.exit_code == 130
    assert (tmp_path / "tile_layercam.tif").exists()


def test_the_reason_of_a_failure_is_printed(images):
    result = run("check", *MODEL, "-i", images[0], "--also", images[1], "--also", images[2],
                 "--method", "gcam", "--layer", "relu4", "--target", "1")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "Grad-CAM (relu4): Hiding what the map marks lowers the score" in result.stdout
    assert "checked: class 1; 3 images\n" in result.stdout
