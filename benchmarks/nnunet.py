"""A whole case through nnU-Net: time of a map relative to ``nnUNetv2_predict``.

``python benchmarks/nnunet.py`` runs the command lines as users do, start of the program included.
The network has nnU-Net's architecture and random weights; two fifths of the windows contain the
target. nnunetv2-cam is measured, too, if it is installed (``pip install --no-deps nnunetv2-cam``).
It writes no prediction, so its time is that of the maps alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

import cases  # noqa: F401  # makes `support` importable
import run
from support.nnunet_toy import make_folder

TESTS = Path(__file__).resolve().parents[1] / "tests"
GOALS = {"medcam": " (goal: ≤ 1.6×)"}
SHAPE, PATCH = (120, 120, 120), (40, 40, 40)

NNUNETV2_CAM = """
import sys, torch, warnings
warnings.simplefilter("ignore")
sys.path.append(sys.argv[4])
from support.torchvision_shim import make_importable
make_importable()
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2_cam.api import run_cam_for_prediction
predictor = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False,
                            device=torch.device("cpu"), allow_tqdm=False)
predictor.initialize_from_trained_model_folder(sys.argv[1], (0,))
run_cam_for_prediction(predictor, sys.argv[2], sys.argv[3], "encoder.stages.2", 1,
                       device=torch.device("cpu"), cam_type="3d", save_slices=False)
"""


def prepare(folder: Path) -> dict[str, str]:
    """Make a trained folder, a case, and a target mask that two fifths of the windows contain."""
    trained = make_folder(
        folder / "trained", channels=1, folds=(0,), mirror=(), patch=PATCH, spacing=(1.0, 1.0, 1.0),
        transpose=(0, 1, 2), features=(16, 32, 64),
    )  # fmt: skip
    images = folder / "images"
    images.mkdir()
    generator = np.random.default_rng(0)
    image = generator.random(SHAPE, np.float32) + 1
    nib.save(nib.Nifti1Image(image, np.eye(4)), images / "case_0000.nii.gz")
    region = np.zeros(SHAPE, np.uint8)
    region[24:36, 4:116, 4:116] = 1
    nib.save(nib.Nifti1Image(region, np.eye(4)), folder / "region.nii.gz")
    return {"trained": str(trained), "images": str(images), "region": str(folder / "region.nii.gz")}


def timed(command: list[str]) -> float:
    """Return the seconds that a command takes.

    Raises:
        RuntimeError: The command failed.
    """
    environment = {**os.environ, "nnUNet_compile": "false"}
    start = time.perf_counter()
    done = subprocess.run(  # noqa: S603  # our own commands
        command, capture_output=True, text=True, check=False, env=environment
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-600:])
    return seconds


def main() -> None:
    """Measure, print the figures and add them to the last results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="timed runs (default: 3)")
    rounds = parser.parse_args().rounds
    tools = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        paths = prepare(Path(name))
        out = Path(name) / "out"
        predict = [
            str(tools / "nnUNetv2_predict_from_modelfolder"), "-i", paths["images"], "-o",
            str(out / "predict"), "-m", paths["trained"], "-f", "0", "-device", "cpu", "-npp", "1",
            "-nps", "1",
        ]  # fmt: skip
        explain = [
            str(tools / "medcam"), "nnunet", "explain", "-m", paths["trained"],
            "-i", paths["images"], "-o", str(out / "explain"), "--label", "PZ",
            "--target", paths["region"], "--device", "cpu",
        ]  # fmt: skip
        peer = [
            sys.executable, "-c", NNUNETV2_CAM, paths["trained"],
            f"{paths['images']}/case_0000.nii.gz", str(out / "peer"), str(TESTS),
        ]  # fmt: skip
        ratios: dict[str, list[float]] = {"medcam": [], "nnunetv2-cam": []}
        seconds = []
        for _ in range(rounds):
            predict_time = timed(predict)
            seconds.append(predict_time)
            ratios["medcam"].append(timed(explain) / predict_time)
            try:
                ratios["nnunetv2-cam"].append(timed(peer) / predict_time)
            except RuntimeError as error:
                print(f"nnunetv2-cam: {str(error).splitlines()[-1]}", file=sys.stderr)
        record = json.loads((out / "explain" / "case.json").read_text())
    windows = record["windows"]
    result = {
        "seconds of nnUNetv2_predict": round(statistics.median(seconds), 1),
        "windows": windows["windows"],
        "windows that hold the target": windows["windows_explained"],
        **{
            f"{name}{GOALS.get(name, '')}": f"{statistics.median(values):.2f}×"
            for name, values in ratios.items()
            if values
        },
    }
    for key, value in result.items():
        print(f"{key:32} {value}")
    run.add_figures("nnunet", result)


if __name__ == "__main__":
    main()
