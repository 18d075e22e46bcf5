"""``medcam layers``: a tree for people, JSON for programs, one line and an exit code for errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medcam.cli.model import load_model
from medcam.cli.numbers import extents, joined
from medcam.errors import InputError

MEDCAM = str(Path(sys.executable).with_name("medcam"))
SHAPE = ["--shape", "1", "1", "12", "12"]


def test_the_tree(medcam_command):
    result = medcam_command("layers", "--model", "nets_of_user:Net", *SHAPE)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "Net, input [1, 1, 12, 12], 365 parameters"

    def line(name):
        return next(line for line in lines if f" {name}  " in line)

    assert "├── ● features  Sequential  8 x 4 x 4  336  <- auto" in line("features")
    assert "│   ├── ● features.0  Conv2d  4 x 12 x 12  40" in line("features.0")
    assert "○ unused  Conv2d  2  it did not run in this call" in line("unused")
    assert "○ head  Linear  27  its output is a tensor of shape [1, 3]" in line("head")
    assert "● a map can be made (5 of 7 layers)" in result.output
    assert "--layer auto takes features\n" in result.output
    assert result.output.count("<- auto") == 1


def test_no_line_is_broken(medcam_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    narrow = medcam_command("layers", "--model", "nets_of_user:Net", *SHAPE).output
    monkeypatch.setenv("COLUMNS", "200")
    wide = medcam_command("layers", "--model", "nets_of_user:Net", *SHAPE).output
    assert narrow.splitlines()[:8] == wide.splitlines()[:8]
    assert max(map(len, narrow.splitlines()[:8])) > 40
    assert all(line == line.rstrip() for line in wide.splitlines())


def test_without_a_shape(medcam_command):
    result = medcam_command("layers", "--model", "nets_of_user:Net")
    assert result.exit_code == 0
    assert "── head  Linear  27\n" in result.output
    assert "Give --shape" in result.output
    assert "●" not in result.output


def test_json(medcam_command):
    result = medcam_command("layers", "--model", "nets_of_user:Net", *SHAPE, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["model"] == "nets_of_user.Net"
    assert found["input"] == [1, 1, 12, 12]
    assert found["automatic"] == "features"
    assert found["parameters"] == 365
    rows = {row["name"]: row for row in found["layers"]}
    assert rows["features.0"] == {
        "name": "features.0", "kind": "Conv2d", "parameters": 40, "channels": 4,
        "output": "a tensor of shape [1, 4, 12, 12]", "space": [12, 12],
        "mappable": True, "reason": None, "automatic": False,
    }  # fmt: skip
    assert rows["unused"]["reason"] == "it did not run in this call"


def test_weights_and_arguments_are_used(medcam_command, folder):
    torch.save(load_model("nets_of_user:Net", args=["classes=5"]).state_dict(), "w.pt")
    command = ["layers", "-m", "nets_of_user:factory", "-w", "w.pt", "--json"]
    result = medcam_command(*command, "--arg", "classes=5", "--arg", "norm=batch")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["parameters"] == 365 + 2 * 9
    result = medcam_command(*command)
    assert result.exit_code == 2
    assert "2 of another shape: head.bias ([5], the model's [3])" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nets_of_user:net"], "Did you mean"),
        (["nets_of_user:Net", "--weights", "none.pt"], "The weights 'none.pt' do not exist"),
        (["nets_of_user:Net", "--shape", "1", "1", "0"], "positive whole numbers"),
        (["nets_of_user:Net", "--shape", "1", "1", "-4", "4"], "positive whole numbers"),
        (["nets_of_user:Net", "--shape", "small"], "positive whole numbers"),
        (["nets_of_user:Net", "--shape", "1", "4"], "spatial axes"),
        (["nets_of_user:Net", "--shape", "1", "5", "12", "12"],
         r"does not run on an input of the shape [1, 5, 12, 12]: RuntimeError"),
        (["nets_of_user:Net", "--arg", "depth=3"], "unexpected keyword argument 'depth'"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_the_code_2(medcam_command, args, message):
    result = medcam_command("layers", "--model", *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_a_failure_that_is_not_about_what_was_given_has_the_code_1(medcam_command, monkeypatch):
    import medcam.explanation.layer_table as module
    from medcam.errors import SaveError

    def full(*_):
        raise SaveError("no space")

    monkeypatch.setattr(module, "overview", full)
    result = medcam_command("layers", "--model", "nets_of_user:Net", *SHAPE)
    assert (result.exit_code, result.stderr) == (1, "Error: no space\n")


def test_a_warning_is_a_line_too(folder):
    Path("soft.py").write_text(
        "from torch import nn\nfrom nets_of_user import Net\n"
        "def make(): return nn.Sequential(Net(), nn.Softmax(1))\n"
    )
    result = run("layers", "--model", "soft:make", *SHAPE, folder=folder)
    assert result.returncode == 0
    assert result.stderr.startswith("Warning: The model ends in a softmax")
    assert "warnings.warn" not in result.stderr


def test_every_command_ends_so(medcam_command, folder):
    (folder / "taken").touch()
    result = medcam_command("demo", "--output", "taken/here")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: Could not ")


def test_usage_errors_have_the_code_2(medcam_command):
    assert medcam_command("layers").exit_code == 2
    assert medcam_command("layers", "--model", "a:b", "--nonsense").exit_code == 2
    assert medcam_command("nonsense").exit_code == 2


def test_the_help_is_complete(medcam_command):
    result = medcam_command("layers", "--help")
    assert result.exit_code == 0
    for option in ("--model", "--arg", "--weights", "--trust", "--shape", "--json"):
        assert option in result.output
    assert "layers" in medcam_command("--help").output


@pytest.mark.parametrize(
    "shape",
    [["--shape", "1", "1", "12", "12"], ["--shape", "1,1,12,12"], ["--shape=1x1x12x12"],
     ["--shape", "1 1 12 12"]],
)  # fmt: skip
def test_every_way_to_write_a_shape(medcam_command, shape):
    result = medcam_command("layers", *shape, "--model", "nets_of_user:Net", "--json")
    assert json.loads(result.stdout)["input"] == [1, 1, 12, 12]


def test_numbers_after_other_options_stay_apart():
    args = ["--roi", "96", "96", "--folds", "0", "1", "-o", "3", "--shape", "5"]
    assert joined(args, ["--roi", "--shape"]) == [
        "--roi", "96,96", "--folds", "0", "1", "-o", "3", "--shape", "5",
    ]  # fmt: skip
    assert joined(["--roi"], ["--roi"]) == ["--roi"]
    for text in ("", "1,,2", "1.5", "a", "1,", "01"):
        with pytest.raises(InputError, match="--roi"):
            extents(text, "--roi")


def run(*args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  # our own command
        [MEDCAM, *args], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_the_installed_command(folder):
    good = run("layers", "--model", "nets_of_user:Net", *SHAPE, folder=folder)
    assert good.returncode == 0
    assert "<- auto" in good.stdout
    assert good.stderr == ""
    bad = run("layers", "--model", "nets_of_user:Nat", *SHAPE, folder=folder)
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.startswith("Error: Factory 'Nat' does not exist. Did you mean 'Net'")
    assert "Traceback" not in bad.stderr
