"""`support.torchvision_shim` with and without a loading extension, each in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

# torchvision with an extension that loads. The extension declares its operators in a static
# initialiser; an exception there aborts the process.
LOADS = """
import os, traceback, torch
try:
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except Exception:
    traceback.print_exc()
    os.abort()
"""

# torchvision with an extension that does not load. Its Python code registers a fake kernel for an
# operator of the extension.
DOES_NOT_LOAD = """
import torch
@torch.library.register_fake("torchvision::nms")
def fake_nms(dets, scores, iou_threshold):
    return dets.new_empty(0, dtype=torch.long)
"""

FAILS_OTHERWISE = """
raise RuntimeError("torch and torchvision were built for different versions of CUDA")
"""


@pytest.fixture
def run(tmp_path):
    """Run a script in a process in which ``import torchvision`` imports a stub package."""

    def run(stub: str, script: str) -> subprocess.CompletedProcess[str]:
        package = tmp_path / "torchvision"
        package.mkdir()
        (package / "__init__.py").write_text(stub, encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS)])}
        return subprocess.run(  # noqa: S603  # our own scripts
            [sys.executable, "-c", script],
            capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
        )  # fmt: skip

    return run


def test_declaring_the_operator_before_the_extension_loads_aborts_the_process(run):
    done = run(
        LOADS,
        "import torch\n"
        "from support.torchvision_shim import _SCHEMA\n"
        "torch.library.define('torchvision::nms', _SCHEMA)\n"
        "import torchvision\n",
    )
    assert done.returncode == -signal.SIGABRT
    assert "nms" in done.stderr


def test_an_extension_that_loads_is_left_alone(run):
    done = run(
        LOADS,
        "import sys, torch\n"
        "from support.torchvision_shim import make_importable\n"
        "make_importable()\n"
        "import torchvision\n"
        "assert sys.modules['torchvision'].library.ns == 'torchvision'\n"
        "assert hasattr(torch.ops.torchvision, 'nms')\n"
        "assert not hasattr(torch.ops.torchvision, 'qnms'), 'declared by the shim'\n",
    )
    assert done.returncode == 0, done.stderr


def test_missing_operators_are_declared_and_the_import_works(run):
    done = run(
        DOES_NOT_LOAD,
        "import sys, torch\n"
        "from support.torchvision_shim import make_importable\n"
        "try:\n"
        "    import torchvision\n"
        "except RuntimeError as error:\n"
        "    assert 'operator torchvision::nms does not exist' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('the stub imports without the operator')\n"
        "assert not hasattr(torch.ops.torchvision, 'nms')\n"
        "make_importable()\n"
        "assert sys.modules['torchvision'].fake_nms\n"
        "assert hasattr(torch.ops.torchvision, 'nms')\n",
    )
    assert done.returncode == 0, done.stderr


def test_another_error_of_the_import_is_raised_unchanged(run):
    done = run(
        FAILS_OTHERWISE,
        "import torch\n"
        "from support.torchvision_shim import make_importable\n"
        "try:\n"
        "    make_importable()\n"
        "except RuntimeError as error:\n"
        "    text = 'torch and torchvision were built for different versions of CUDA'\n"
        "    assert str(error) == text, error\n"
        "    assert error.__cause__ is error.__context__ is None\n"
        "else:\n"
        "    raise AssertionError('no error was raised')\n"
        "assert not hasattr(torch.ops.torchvision, 'nms')\n",
    )
    assert done.returncode == 0, done.stderr
