"""What the network predicted, on the command line, in the record and on the page."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from medcam import demo
from medcam.cli import app
from medcam.explanation.case.reading import read_case

LESION = ["--model", "medcam.demo:load_lesion_classifier", "--channels", "--layer", "relu6"]
SEGMENTER = ["--model", "medcam.demo:load_nuclei_segmenter", "--channels", "--layer",
             "decoder2", "--no-report"]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slices = demo.load_lesion_slices()
    np.save("sick.npy", slices.images[slices.labels == 1][0].numpy())
    np.save("tile.npy", demo.load_nuclei().images[0].numpy())
    (tmp_path / "names.txt").write_text("healthy\nlesion <b>\n", encoding="utf-8")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["explain", *arguments, "-o", "out"])


def test_it_is_printed_recorded_and_on_the_page(here):
    done = run(*LESION, "-i", "sick.npy", "--classes", "names.txt", "--truth", "lesion <b>")
    assert done.exit_code == 0, done.output
    assert "predicted  lesion <b> " in done.stdout
    assert "(softmax, assumed): correct" in done.stdout
    said = json.loads((here / "out/sick.json").read_text())["extra"]["prediction"]
    assert said["predicted"] == ["lesion <b>"]
    assert said["is_correct"] is True
    assert said["probabilities_are_assumed"] is True
    assert [row["name"] for row in said["classes"]] == ["healthy", "lesion <b>"]
    page = (here / "out/sick.html").read_text()
    assert "What the network predicted" in page
    assert "Predicted: lesion &lt;b&gt;. That is correct: the truth is lesion &lt;b&gt;." in page
    assert "lesion <b>" not in page
    assert "which is assumed: the model does not say so" in page
    (here / "out/sick.html").unlink()
    assert CliRunner().invoke(app, ["report", "out"]).exit_code == 0
    assert "That is correct" in (here / "out/sick.html").read_text()
    assert read_case(here / "out/sick.json").prediction["task"] == "classification"


def test_a_wrong_prediction_and_json(here):
    done = run(*LESION, "-i", "sick.npy", "--truth", "0", "--probabilities", "none", "--json",
               "--no-report")  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)["prediction"]
    assert said["is_correct"] is False
    assert said["truth"] == [0]
    assert said["probabilities"] == "none"
    assert "probability" not in said["classes"][0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.json", '["background", "nucleus"]'),
        ("numbers.json", '{"1": "nucleus"}'),
        ("dataset.json", '{"labels": {"background": 0, "nucleus": 1, "ignore": 2}}'),
        ("lines.txt", "\ufeffbackground\nnucleus\n"),
    ],
)
def test_files_of_names(here, name, content):
    (here / name).write_text(content, encoding="utf-8")
    done = run(*SEGMENTER, "-i", "tile.npy", "--classes", name)
    assert done.exit_code == 0, done.output
    said = json.loads((here / "out/tile.json").read_text())["extra"]["prediction"]
    assert said["predicted"][-1] == "nucleus"
    assert said["classes"][1]["voxels"] > 100
    assert "voxels" in done.stdout
    assert "probabilities" not in said


def test_volumes_are_in_ml(here):
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    head = demo.load_head().image[0, 0, :32, :32, :32].numpy()
    nib.save(nib.Nifti1Image(head, affine), here / "head.nii.gz")
    done = run("--model", "medcam.demo:load_brain_segmenter", "-i", "head.nii.gz", "--layer",
               "decoder2", "--no-report", "--target", "channel 0")  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads((here / "out/head.json").read_text())["extra"]["prediction"]
    assert said["unit"] == "ml"
    for row in said["classes"]:
        assert row["size"] == pytest.approx(row["voxels"] * 0.02, abs=1e-6)
    assert sum(row["voxels"] for row in said["classes"]) == 32**3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "absent.txt"], "--classes 'absent.txt' cannot be read"),
        (["--classes", "sick.npy"], "cannot be read"),
        (["--classes", "regions.json"], "Regions of several labels have no class"),
        (["--classes", "empty.txt"], "holds no names"),
        (["--classes", "names.txt", "--truth", "lesio"], "Did you mean 'lesion <b>'"),
        (["--probabilities", "logistic"], "choose auto, softmax"),
    ],
)
def test_wrong_options_are_told_before_the_model_runs(here, options, message, monkeypatch):
    (here / "regions.json").write_text('{"labels": {"background": 0, "whole": [1, 2]}}')
    (here / "empty.txt").write_text("\n")
    monkeypatch.setattr(demo.LesionNet, "forward", None)
    done = run(*LESION, "-i", "sick.npy", *options)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())


def test_more_names_than_classes_lose_no_map(here):
    (here / "three.txt").write_text("a\nb\nc\n")
    done = run(*LESION, "-i", "sick.npy", "--classes", "three.txt")
    assert done.exit_code == 2
    assert "The maps are written, but not what was predicted" in done.stderr
    assert "there is no class 2" in done.stderr
    assert (here / "out/sick_gcam.tif").exists()
    assert "prediction" not in json.loads((here / "out/sick.json").read_text())["extra"]


def test_a_damaged_record_of_a_prediction_is_told(here):
    assert run(*LESION, "-i", "sick.npy", "--no-report").exit_code == 0
    path = here / "out/sick.json"
    record = json.loads(path.read_text())
    record["extra"]["prediction"]["classes"] = "all"
    path.write_text(json.dumps(record))
    done = CliRunner().invoke(app, ["report", "out"])
    assert "its prediction is incomplete" in " ".join(done.output.split())
