"""The package as a whole: public names, cheap import, content of the wheel."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import medcam

ROOT = Path(__file__).parents[2]
HEAVY = ["pandas", "nibabel", "matplotlib", "skimage", "scipy", "PIL", "openpyxl", "rich", "typer"]


def test_importing_is_about_as_cheap_as_importing_torch():
    code = (
        "import sys, torch; before = set(sys.modules); import medcam; "
        f"heavy = [m for m in {HEAVY} if m in sys.modules]; "
        "print(heavy, len(set(sys.modules) - before))"
    )
    out = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    heavy, _, count = out.strip().rpartition(" ")
    assert heavy == "[]"
    assert int(count) < 205  # all but a few are small files of medcam


def modules() -> list[str]:
    return [info.name for info in pkgutil.walk_packages(medcam.__path__, "medcam.")]


@pytest.mark.parametrize("name", modules())
def test_what_a_module_exports_exists(name):
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", []):
        assert getattr(module, public) is not None


def test_the_public_names():
    assert set(medcam.__all__) == {
        "AttentionMap", "Evaluator", "Explanation", "LayerGrid", "agreement", "check",
        "compute_score", "eject", "errors", "explain", "explain_volume", "fuse", "get_layers",
        "inject", "methods", "montage", "save", "targets", "MedcamError", "MedcamWarning",
        "Prediction", "prediction_of",
    }  # fmt: skip
    with pytest.raises(AttributeError, match="nonsense"):
        _ = medcam.nonsense


def test_the_version_is_that_of_pyproject():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version[1] == medcam.__version__


def test_medcam_itself_never_imports_torchvision():
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) torchvision", path.read_text(), re.MULTILINE)


def test_the_wheel_holds_the_data_and_the_licences(tmp_path):
    import zipfile

    subprocess.run(  # noqa: S603  # the project's own build
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, ROOT],
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("m3d_cam-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    data = {path.name for path in (ROOT / "src/medcam/demo/data").iterdir()}
    assert {Path(name).name for name in names if "/demo/data/" in name} == data
    assert "medcam/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
