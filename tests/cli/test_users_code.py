"""What the user's own code does: it prints, it exits, it lies where packages do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medcam.cli import app

ROOT = Path(__file__).parents[2]
NET = """
import sys
print("printed at import")
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        print("printed at making")
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)
    def forward(self, x):
        print("printed in forward")
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))
class Quits(Net):
    def forward(self, x):
        sys.exit("no such option")
class Stubborn(Net):
    def eval(self):
        raise ZeroDivisionError("their own fault")
def quits():
    sys.exit()
def main():
    import argparse
    argparse.ArgumentParser().parse_args(["--wrong"])
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a program of the user's, and an image."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("users.py").write_text(NET)
    Path("script.py").write_text(NET + "\nsys.exit(main())\n")
    Path("empty.py").write_text("")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)).save("x.png")
    yield tmp_path
    for name in ("users", "script", "empty"):
        sys.modules.pop(name, None)


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def explain(model, *options):
    return run("explain", "-m", model, "-i", "x.png", "-o", "out", *options)


@pytest.mark.parametrize("command", ["explain", "layers"])
def test_what_the_user_s_code_prints_is_no_json(here, command):
    if command == "explain":
        done = explain("users.py:Net", "--json", "--no-report")
    else:
        done = run("layers", "-m", "users.py:Net", "--shape", "1 1 16 16", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)
    assert "printed at import" in done.stderr
    assert "printed in forward" in done.stderr


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("users.py:quits", r"The factory users.py:quits failed: it called sys.exit()"),
        ("script.py:Net", "The file 'script.py' cannot be run: it called sys.exit(2)"),
        ("script:Net", "The module 'script' cannot be imported: it called sys.exit(2)"),
        ("users.py:Quits", "The model does not run: it called sys.exit('no such option')"),
        ("users.py:Stubborn", "its eval() failed: their own fault"),
        ("empty.py:build", "Factory 'build' does not exist. There is none."),
    ],
)
def test_a_program_that_ends_itself_is_an_error(here, model, words):
    done = explain(model)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not Path("out").exists()
    if "sys.exit" in words:
        assert "if __name__ == '__main__':" in done.stderr


def test_files_of_the_current_folder_do_not_stand_for_installed_packages(here):
    """With --model torch.nn:Identity a nibabel.py that lies there would run in its place."""
    for name in ("nibabel", "typer", "PIL", "json", "skimage"):
        Path(f"{name}.py").write_text("raise SystemExit('run in place of the package')\n")
    code = "import sys; sys.path[:] = [p for p in sys.path if p]; from medcam.cli import app; app()"
    arguments = ["layers", "-m", "torch.nn:Identity", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "in place" not in done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes are those of Linux")
def test_a_name_that_is_not_utf8(here):
    name = os.fsdecode(b"bild_\xe4.png")
    Path("x.png").rename(name)
    done = run("explain", "-m", "users.py:Net", "-i", name, "-o", "out")
    assert done.exit_code == 0, done.output
    (record,) = Path("out").glob("*.json")
    assert json.loads(record.read_text("utf-8"))["inputs"][-1]["path"] == f"../{name}"
    assert run("report", "out").exit_code == 0
    again = run("explain", "-m", "users.py:Net", "-i", name, "-o", "out", "--json")
    assert again.exit_code == 0
    assert len(list(Path("out").glob("*.json"))) == 1


def test_the_reason_of_a_broken_image_is_one_line(here):
    Path("x.png").write_bytes(Path("x.png").read_bytes()[:-20])
    done = explain("users.py:Net")
    assert done.exit_code == 2
    lines = [line for line in done.stderr.splitlines() if "printed" not in line]
    assert len([line for line in lines if line.startswith("Error:")]) == 1
    assert all(line.startswith(("Error:", "Warning: without --weights")) for line in lines)


def test_what_other_programs_print_is_no_json_either(here):
    code = NET.replace('print("printed in forward")', 'import os; os.system("echo by a shell")')
    Path("users.py").write_text(code + "\nsys.__stdout__.write('by the first stream\\n')\n")
    command = "from medcam.cli import app; app()"
    arguments = ["layers", "-m", "users.py:Net", "--shape", "1 1 16 16", "--json"]
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", command, *arguments],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert "by a shell" in done.stderr
