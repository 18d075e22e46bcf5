"""Programs that reach into the original package's modules find what takes their place."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import medcam
from medcam import installation
from medcam.errors import MedcamWarning
from support.nets import Classifier

SOURCE = Path(medcam.__file__).parents[1]


@pytest.mark.parametrize(
    "line",
    [
        "from medcam import medcam, medcam_inject, medcam_utils",
        "from medcam.medcam_inject import inject",
        "from medcam.medcam_utils import get_layers, interpolate, normalize, save_attention_map",
        "from medcam.backends import base, grad_cam, grad_cam_pp",
        "from medcam.backends import guided_backpropagation, guided_grad_cam",
        "import medcam.backends.base",
        "from medcam.evaluation.evaluator import Evaluator",
        "from medcam.evaluation import evaluation_utils, evaluator",
        "from medcam.evaluation.evaluation_utils import comp_score",
    ],
)
def test_their_imports(line):
    exec(line, {})  # noqa: S102  # lines of public programs


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        ("medcam.backends.grad_cam", "GradCAM", r"medcam\.explain\(model, x, method='gcam'\)"),
        ("medcam.backends.base", "_BaseWrapper", r"medcam\.methods\.Method"),
        ("medcam.medcam_utils", "overlay", r"medcam\.save"),
        ("medcam.medcam_utils", "generate_gcam2d", r"medcam\.save"),
        ("medcam.medcam_inject", "forward", "call the injected model"),
    ],
)
def test_names_that_are_not_kept_say_what_takes_their_place(module, name, instead):
    with pytest.raises(ImportError, match=rf"'{name}' of the original {module} is not .*{instead}"):
        getattr(importlib.import_module(module), name)
    assert not hasattr(importlib.import_module(module), "nothing")


def test_the_helpers():
    from medcam import medcam_inject, medcam_utils
    from medcam.evaluation.evaluation_utils import comp_score

    assert medcam_inject.inject is medcam.inject
    assert medcam_utils.get_layers is medcam.get_layers
    assert comp_score is medcam.compute_score
    assert medcam_utils.normalize(np.array([2.0, 4.0])).tolist() == [0, 1]
    assert medcam_utils.normalize(torch.ones(2)).tolist() == [0, 0]
    resized = medcam_utils.interpolate(np.eye(2), (4, 4), squeeze=True)
    assert resized.shape == (4, 4)
    assert medcam_utils.interpolate(torch.eye(2), (4, 4)).shape == (1, 1, 4, 4)
    with pytest.raises(medcam.MedcamError, match="2 or 3 extents"):
        medcam_utils.interpolate(torch.ones(1, 1, 1, 2, 2), (4, 4))


def test_save_attention_map_has_the_original_s_order(tmp_path):
    from medcam.medcam_utils import save_attention_map

    saved = save_attention_map(str(tmp_path / "a"), np.eye(8), True, None)
    assert saved == tmp_path / "a.png"


def test_medcam_dict(tmp_path):
    model = medcam.inject(Classifier().eval(), tmp_path, backend="gcam", layer="features", label=1)
    state = model.medcam_dict
    assert state["current_attention_map"] is None
    assert (state["counter"], state["enabled"], state["layer"]) == (0, True, "features")
    model(torch.rand(2, 1, 16, 16))
    assert state["current_attention_map"].shape == (2, 1, 16, 16)
    assert state["current_layer"] == "features"
    assert state["counter"] == 1
    assert state["output_dir"] == str(tmp_path)
    assert state["device"] == torch.device("cpu")
    assert state["heatmap"] is True
    state["enabled"] = False
    assert torch.is_tensor(model(torch.rand(1, 1, 16, 16)))
    assert state["counter"] == 1
    model.medcam_dict["enabled"] = True
    state["return_attention"] = True
    _, attention = model(torch.rand(1, 1, 16, 16))
    assert attention.shape == (1, 1, 16, 16)
    state["label"] = 2
    model(torch.rand(1, 1, 16, 16))
    assert model.get_explanation().target.classes.tolist() == [[2]]
    with pytest.raises(KeyError, match="cannot be set here: inject the model again"):
        state["layer"] = "head"
    with pytest.raises(KeyError, match="'model_backend' of the original's medcam_dict is not kept"):
        _ = state["model_backend"]
    assert len(dict(state)) == len(state)


def test_the_original_beside_this_package_is_told(monkeypatch):
    monkeypatch.setattr(installation.metadata, "version", lambda name: "0.1.22")
    with pytest.warns(MedcamWarning, match=r"'medcam' 0\.1\.22 .*pip uninstall -y medcam && pip"):
        installation.warn_of_original()


@pytest.fixture
def copy_of_the_package(tmp_path):
    """The package in a folder of its own, where its files can be damaged."""
    target = tmp_path / "site"
    target.mkdir()
    code = f"import shutil; shutil.copytree({str(SOURCE / 'medcam')!r}, {str(target / 'medcam')!r})"
    exec(code, {})  # noqa: S102
    return target


def run_in(folder, code):
    isolated = """
        import os, sys
        sys.path[:] = [p for p in sys.path if not os.path.exists(os.path.join(p, "medcam"))]
        sys.path.insert(0, FOLDER)
    """
    code = textwrap.dedent(isolated).replace("FOLDER", repr(str(folder))) + code
    return subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )


ORIGINAL = {  # the files of the original's wheel, version 0.1.22
    "__init__.py": "", "medcam.py": "print('the original ran')", "medcam_inject.py": "",
    "medcam_utils.py": "", "backends/__init__.py": "", "backends/base.py": "",
    "backends/grad_cam.py": "", "backends/grad_cam_pp.py": "",
    "backends/guided_backpropagation.py": "", "backends/guided_grad_cam.py": "",
    "evaluation/__init__.py": "", "evaluation/evaluation_utils.py": "",
    "evaluation/evaluator.py": "",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("uninstalled", [False, True])
@pytest.mark.parametrize(
    "line",
    [
        "from medcam import medcam",
        "from medcam.cli import app",
        "from medcam.medcam_inject import inject",
        "from medcam.medcam_utils import get_layers",
    ],
)
def test_after_the_original_was_installed_over_this_package(copy_of_the_package, uninstalled, line):
    for name, content in ORIGINAL.items():
        path = copy_of_the_package / "medcam" / name
        if uninstalled:
            path.unlink(missing_ok=True)
        else:
            path.write_text(content)
    done = run_in(copy_of_the_package, line)
    assert done.returncode != 0
    assert "the original ran" not in done.stdout
    assert (
        "pip uninstall -y medcam && pip install --force-reinstall --no-deps m3d-cam" in done.stderr
    )


@pytest.mark.slow
def test_with_its_metadata_there_is_one_line(copy_of_the_package):
    info = copy_of_the_package / "medcam-0.1.22.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: medcam\nVersion: 0.1.22\n")
    done = run_in(copy_of_the_package, "import medcam; print(medcam.__version__)")
    assert done.returncode == 0
    assert done.stdout.strip() == medcam.__version__
    assert done.stderr.count("MedcamWarning") == 1
