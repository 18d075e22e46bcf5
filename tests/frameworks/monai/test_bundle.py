"""The overlay on a real bundle: `monai.bundle run`, and the file that it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

import medcam
from support import monai_cases
from support.monai_cases import SHAPE, Finder, centre_mm, inside, oblique, spot_mm, write_volume

# Loading any image makes MONAI look for a decoder of DICOM files that is not installed here.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")

ROOT = Path(__file__).parents[3]
INFERENCE = {
    "imports": ["$from pathlib import Path"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "device": "cpu",
    "dataset_dir": "$@bundle_root + '/data'",
    "images": "$sorted(str(p) for p in Path(@dataset_dir).iterdir())",
    "network_def": {"_target_": "finder.Finder"},
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {
                "_target_": "Orientationd", "keys": "image", "axcodes": "RAS",
                "labels": [["L", "R"], ["P", "A"], ["I", "S"]],
            },
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.6, 2.0, 3.0]},
        ],
    },
    "dataset": {
        "_target_": "Dataset",
        "data": "$[{'image': i} for i in @images]",
        "transform": "@preprocessing",
    },
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
    "inferer": {
        "_target_": "SlidingWindowInferer", "roi_size": [16, 16, 12], "overlap": 0.5,
        "sw_batch_size": 2,
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {
                "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing",
                "orig_keys": "image", "nearest_interp": True, "to_tensor": True,
            },
            {
                "_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir",
                "output_postfix": "seg", "resample": False,
            },
        ],
    },
    "handlers": [
        {
            "_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        }
    ],
    "evaluator": {
        "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader",
        "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
    },
    "run": ["$@evaluator.run()"],
}  # fmt: skip
METADATA = {
    "version": "0.1.0", "monai_version": "1.6.1", "pytorch_version": "2.4", "numpy_version": "2.0",
    "task": "find a bright spot", "description": "test", "authors": "test", "copyright": "none",
    "network_data_format": {"inputs": {}, "outputs": {}},
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    """A bundle on disk with weights and one image; its network comes from its own scripts."""
    for name, content in (("inference", INFERENCE), ("metadata", METADATA)):
        path = tmp_path / "configs" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    (tmp_path / "models").mkdir()
    torch.save(Finder().state_dict(), tmp_path / "models" / "model.pt")
    (tmp_path / "finder.py").write_text(Path(monai_cases.__file__).read_text())
    write_volume(tmp_path / "data" / "case.nii.gz")
    return tmp_path


def run(bundle, configs, *options):
    """Run `python -m monai.bundle run`."""
    listed = "[" + ",".join(f"'{config}'" for config in configs) + "]"
    paths = [str(ROOT / "src"), str(bundle)]
    return subprocess.run(  # noqa: S603  # MONAI's own command
        [sys.executable, "-m", "monai.bundle", "run", "--meta_file", "configs/metadata.json",
         "--config_file", listed, *options],
        cwd=bundle, capture_output=True, text=True, check=False, timeout=280,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip


@pytest.mark.slow
def test_a_bundle_run_saves_maps_on_the_sources_grid_beside_the_same_segmentation(bundle):
    done = run(bundle, ["configs/inference.json"], "--output_dir", "plain")
    assert done.returncode == 0, done.stderr
    done = run(
        bundle, ["configs/inference.json", medcam.monai.bundle_overlay()],
        "--attention_target", "1", "--attention_layer", "features.1",
        "--attention_method", "hirescam", "--attention_postfix", "cam",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wrong ID" not in done.stderr + done.stdout
    saved = nibabel.load(bundle / "eval" / "case" / "case_cam.nii.gz")
    assert saved.shape == SHAPE
    assert saved.get_data_dtype() == np.float32
    np.testing.assert_allclose(saved.affine, oblique(), atol=1e-4)
    assert np.linalg.norm(centre_mm(saved) - spot_mm()) < 0.7
    assert inside(saved) > 0.8
    plain = nibabel.load(bundle / "plain" / "case" / "case_seg.nii.gz")
    with_maps = nibabel.load(bundle / "eval" / "case" / "case_seg.nii.gz")
    assert plain.get_fdata().any()
    np.testing.assert_array_equal(plain.get_fdata(), with_maps.get_fdata())
    assert not list((bundle / "plain").rglob("*cam*"))


@pytest.fixture
def importable(bundle, monkeypatch):
    monkeypatch.syspath_prepend(bundle)
    yield bundle
    sys.modules.pop("finder", None)


def test_a_workflow_in_python_takes_the_overlay(importable):
    workflow = ConfigWorkflow(
        config_file=[
            str(importable / "configs" / "inference.json"), str(medcam.monai.bundle_overlay())
        ],
        meta_file=str(importable / "configs" / "metadata.json"),
        workflow_type="infer", bundle_root=str(importable), logging_file=False,
        attention_target=1, attention_dir=str(importable / "maps"),
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    inferer = workflow.parser.get_parsed_content("evaluator").inferer
    assert isinstance(inferer, medcam.monai.AttentionInferer)
    assert inferer.request.target == 1
    assert inferer.explanation.map.method == "layercam"
    saved = nibabel.load(importable / "maps" / "case" / "case_attention.nii.gz")
    np.testing.assert_allclose(saved.affine, oblique(), atol=1e-4)
    assert inside(saved) > 0.8


def test_the_inferer_is_made_from_a_configuration():
    parser = ConfigParser({
        "inferer": {
            "_target_": "medcam.monai.AttentionInferer",
            "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8]},
            "layer": "fine",
            "label": 2,
            "method": "layercam",
        }
    })  # fmt: skip
    inferer = parser.get_parsed_content("inferer")
    assert isinstance(inferer, medcam.monai.AttentionInferer)
    assert inferer.inferer.roi_size == [8, 8]
    assert (inferer.request.layer, inferer.request.target) == ("fine", 2)
    assert [method.name for method in inferer.request.methods] == ["layercam"]
