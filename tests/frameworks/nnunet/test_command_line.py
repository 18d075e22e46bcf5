"""``medcam nnunet`` as it is typed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import medcam
from medcam.cli import app
from support.nnunet_toy import make_image, oblique, write_case


def run(*arguments):
    return CliRunner().invoke(app, ["nnunet", *map(str, arguments)])


def test_one_case_is_explained(trained, case, tmp_path):
    folder = trained(folds=(0,), mirror=())
    done = run("explain", "-m", folder, "-i", case, "-o", tmp_path / "out", "--label", "PZ")
    assert done.exit_code == 0, done.output
    found = medcam.nnunet.explain(folder, case, "PZ")
    saved = nib.load(tmp_path / "out" / "case_gcam.nii.gz")
    np.testing.assert_array_equal(np.asarray(saved.dataobj), found.map)
    assert (tmp_path / "out" / "case.json").is_file()


def test_options_reach_the_maps(trained, case, tmp_path):
    folder = trained()
    done = run(
        "explain", "-m", folder, "-i", case, "-o", tmp_path, "--label", "TZ", "--folds", "1",
        "--no-tta", "--method", "gbp", "--method", "gcam", "--layer", "encoder.stages.1",
        "--target", "point 9,12,8", "--step-size", "1.0", "--batch-size", "2",
        "--channel-weights", "volume", "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["case"], row["status"], row["error"]) == ("case", "ok", None)
    found = medcam.nnunet.explain(
        folder, case, "TZ", folds=1, tta=False, method=["gbp", "gcam"], layer="encoder.stages.1",
        target="point 9,12,8", step_size=1.0, batch_size=2, channel_weights="volume",
    )  # fmt: skip
    for method, layer in [("gbp", None), ("gcam", "encoder.stages.1")]:
        saved = nib.load(tmp_path / f"case_{method}.nii.gz")
        np.testing.assert_array_equal(np.asarray(saved.dataobj), found.maps[method, layer])
    record = json.loads((tmp_path / "case.json").read_text())
    assert record["folds"] == ["1"]
    assert record["windows"]["step_size"] == 1.0
    assert record["windows"]["channel_weights"] == "volume"


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
        (["--label", "PZ", "--method", "gradcm"], "Method 'gradcm' does not exist"),
    ],
)
def test_wrong_options_are_told_in_a_line(trained, case, tmp_path, arguments, message):
    folder = trained()
    done = run("explain", "-m", folder, "-i", case, "-o", tmp_path / "out", "--no-tta", *arguments)
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


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
    assert "case_gcam.nii.gz" in done.stdout
    assert (tmp_path / "out" / "case_gcam.nii.gz").is_file()
