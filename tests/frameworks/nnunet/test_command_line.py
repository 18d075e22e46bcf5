"""The command line ``medcam nnunet``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import medcam
from medcam.cli import app
from medcam.errors import InputError
from medcam.frameworks.nnunet.result import CaseExplanation
from support.nnunet_toy import make_image, oblique, write_case


def run(*arguments):
    return CliRunner().invoke(app, ["nnunet", *map(str, arguments)])


def test_one_case_is_explained(trained, case, tmp_path):
    folder = trained(folds=(0,), mirror=())
    done = run("explain", "-m", folder, "-i", case, "-o", tmp_path / "out", "--label", "PZ")
    assert done.exit_code == 0, done.output
    found = medcam.nnunet.explain(folder, case, "PZ")
    saved = nib.load(tmp_path / "out" / "case_layercam.nii.gz")
    np.testing.assert_array_equal(np.asarray(saved.dataobj), found.map)
    assert (tmp_path / "out" / "case.json").is_file()


@pytest.mark.filterwarnings("ignore:.*cannot explain a part")
def test_options_reach_the_maps(trained, case, tmp_path):
    folder = trained()
    done = run(
        "explain", "-m", folder, "-i", case, "-o", tmp_path, "--label", "TZ", "--folds", "1",
        "--no-tta", "--method", "gbp", "--method", "gcam", "--layer", "encoder.stages.1",
        "--target", "point 9,12,8", "--step-size", "1.0", "--batch-size", "2",
        "--channel-weights", "window", "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["case"], row["status"], row["error"]) == ("case", "ok", None)
    found = medcam.nnunet.explain(
        folder, case, "TZ", folds=1, tta=False, method=["gbp", "gcam"], layer="encoder.stages.1",
        target="point 9,12,8", step_size=1.0, batch_size=2, channel_weights="window",
    )  # fmt: skip
    for method, layer in [("gbp", None), ("gcam", "encoder.stages.1")]:
        saved = nib.load(tmp_path / f"case_{method}.nii.gz")
        np.testing.assert_array_equal(np.asarray(saved.dataobj), found.maps[method, layer])
    record = json.loads((tmp_path / "case.json").read_text())
    assert record["folds"] == ["1"]
    assert record["windows"]["step_size"] == 1.0
    assert record["windows"]["channel_weights"] == "window"


def test_a_failed_case_does_not_end_the_run(trained, tmp_path):
    images = tmp_path / "images"
    for name in ("a", "b"):
        write_case(images, make_image(), oblique(), name)
    (images / "a_0001.nii.gz").write_bytes(b"damaged")
    folder = trained(folds=(0,), mirror=())
    done = run("explain", "-m", folder, "-i", images, "-o", tmp_path / "out", "--label", "PZ",
               "--json")  # fmt: skip
    assert done.exit_code == 1
    first, second = json.loads(done.stdout)
    assert first["status"] == "failed"
    assert "a_0001.nii.gz" in first["error"]
    assert second["status"] == "ok"
    assert not list((tmp_path / "out").glob("a*"))
    assert len(list((tmp_path / "out").glob("b*"))) >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "PX"], "Label 'PX' does not exist"),
        (["--label", "PZ", "--folds", "7"], "no fold 7"),
        (["--label", "PZ", "--layer", "encoder.stage.1"], "Did you mean 'encoder.stages.1'"),
        (["--label", "PZ", "--layer", "encoder.stage.1"], "`medcam nnunet info --json`"),
        (["--label", "PZ", "--method", "gradcm"], "Method 'gradcm' does not exist"),
        (["--label", "1"], "The label with this number is 'PZ'."),
        (["--label", "PZ", "--target", "foo"], "neither 'predicted', 'component'"),
        (["--label", "PZ", "--target", "point 1,b,3"], "a place is three numbers"),
        (["--label", "PZ", "--channel-weights", "volumne"], "choose 'window' or 'volume'"),
        (["--label", "PZ", "--batch-size", "0"], "has to be at least 1"),
        (["--label", "PZ", "--step-size", "3"], "above 0, at most 1"),
        (["--label", "PZ", "--device", "bogus"], "device='bogus' cannot be used"),
        (["--label", "PZ", "--device", "cuda:77"], "device='cuda:77' cannot be used"),
    ],
)
def test_wrong_options_are_told_in_a_line(trained, case, tmp_path, arguments, message):
    folder = trained()
    done = run("explain", "-m", folder, "-i", case, "-o", tmp_path / "out", "--no-tta", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_results_that_can_go_nowhere_are_told_first(trained, case, tmp_path, monkeypatch):
    monkeypatch.setattr("medcam.frameworks.nnunet.explain_case", None)  # never called
    (tmp_path / "out").write_text("a file")
    done = run("explain", "-m", trained(), "-i", case, "-o", tmp_path / "out", "--label", "PZ")
    assert done.exit_code == 1
    assert "Could not create the folder" in done.output


@pytest.mark.parametrize("target", ["point 500,1,1", "mm 0,900,0", (9, 12)])
def test_a_place_outside_the_image_is_told_before_the_prediction(
    trained, case, monkeypatch, target
):
    model = medcam.nnunet.load(trained(folds=(0,), mirror=()))
    monkeypatch.setattr(model.predictor, "predict_logits_from_preprocessed_data", None)
    with pytest.raises(InputError, match="is outside the image, whose shape is"):
        medcam.nnunet.explain(model, case, "PZ", target=target)


@pytest.mark.parametrize("damaged", ["a", "previous of a"])
def test_a_damaged_file_of_a_cascade_does_not_end_the_run(trained, tmp_path, damaged):
    options = {"configuration": "3d_cascade_fullres", "folds": (0,), "mirror": (0,)}
    folder = trained(**options, reader="NibabelIO")
    images, previous = tmp_path / "images", tmp_path / "previous"
    previous.mkdir()
    for name in ("a", "b"):
        first = write_case(images, make_image(), oblique(), name)
        labels = np.zeros(nib.load(first).shape, np.uint8)
        labels[6:12, 8:14, 5:10] = 1
        nib.save(nib.Nifti1Image(labels, oblique()), previous / f"{name}.nii.gz")
    if damaged == "a":
        (images / "a_0001.nii.gz").write_bytes(b"damaged")
    else:
        (previous / "a.nii.gz").write_bytes(b"damaged")
    done = run("explain", "-m", folder, "-i", images, "-o", tmp_path / "out", "--label", "PZ",
               "--prev-stage", previous, "--json")  # fmt: skip
    assert done.exit_code == 1
    first, second = json.loads(done.stdout)
    assert ("previous stage" in first["error"]) == (damaged != "a")
    assert second["status"] == "ok"
    assert not list((tmp_path / "out").glob("a*"))


def test_a_table_of_cases_another_checkpoint_and_pages(trained, tmp_path):
    folder = shutil.copytree(trained(folds=(0,), mirror=()), tmp_path / "trained")
    (folder / "fold_0" / "checkpoint_final.pth").rename(folder / "fold_0" / "checkpoint_best.pth")
    first = write_case(tmp_path / "images", make_image(), oblique(), "x")
    table = tmp_path / "cases.csv"
    second = first.with_name("x_0001.nii.gz")
    table.write_text(f"case_id,image,image2\npatient 7,{first},{second}\n")
    asked = ["explain", "-m", folder, "-i", table, "-o", tmp_path / "out", "--label", "PZ"]
    missing = run(*asked)
    assert missing.exit_code == 2
    assert "checkpoint_final.pth" in missing.output
    done = run(*asked, "--checkpoint", "checkpoint_best.pth", "--report")
    assert done.exit_code == 0, done.output
    (page,) = (tmp_path / "out").glob("*.html")
    assert "patient 7" in page.read_text(encoding="utf-8")


def test_a_folder_that_could_run_code_needs_to_be_trusted(trained, case, tmp_path):
    folder = shutil.copytree(trained(folds=(0,), mirror=()), tmp_path / "trained")
    path = folder / "fold_0" / "checkpoint_final.pth"
    state = torch.load(path, weights_only=False)
    torch.save({**state, "more": PurePosixPath("a")}, path)
    asked = ["explain", "-m", folder, "-i", case, "-o", tmp_path / "out", "--label", "PZ"]
    refused = run(*asked)
    assert refused.exit_code == 2
    assert "--trust" in refused.output
    assert not (tmp_path / "out").exists()
    assert run(*asked, "--trust").exit_code == 0


def test_a_stop_keeps_what_is_complete_and_nothing_else(trained, tmp_path, monkeypatch):
    images = tmp_path / "images"
    for name in ("a", "b"):
        write_case(images, make_image(), oblique(), name)
    folder, calls = trained(folds=(0,), mirror=()), []
    write = CaseExplanation._save_segmentation

    def interrupted(self, prefix):
        calls.append(prefix)
        if len(calls) == 2:  # while the second case is written
            raise KeyboardInterrupt
        return write(self, prefix)

    monkeypatch.setattr(CaseExplanation, "_save_segmentation", interrupted)
    done = run("explain", "-m", folder, "-i", images, "-o", tmp_path / "out", "--label", "PZ")
    assert done.exit_code == 130
    assert "Stopped." in done.output
    assert (tmp_path / "out" / "a.json").is_file()
    assert not (tmp_path / "out" / "b.json").exists()
    for path in (tmp_path / "out").glob("*.nii.gz"):  # whole files, and none in the making
        nib.load(path).get_fdata()
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith((".", "tmp"))]


def test_info_lists_what_there_is(trained):
    said = json.loads(run("info", "-m", trained(), "--json").stdout)
    assert said["labels"] == ["background", "PZ", "TZ"]
    assert said["channels"] == ["T2", "ADC"]
    assert said["bottleneck"] == "encoder.stages.2"
    assert "decoder.stages.1" in said["layers"]
    text = run("info", "-m", trained()).stdout
    assert "T2, ADC" in text
    assert "encoder.stages.0" in text


def test_the_command_runs_as_a_program(trained, case, tmp_path):
    folder = shutil.copytree(trained(folds=(0,), mirror=()), tmp_path / "trained")
    out = tmp_path / "out"
    done = subprocess.run(  # noqa: S603  # our own command
        [
            Path(sys.executable).with_name("medcam"), "nnunet", "explain", "-m", folder, "-i", case,
            "-o", out, "--label", "PZ",
        ], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "case_layercam.nii.gz" in done.stdout
    assert (tmp_path / "out" / "case_layercam.nii.gz").is_file()
