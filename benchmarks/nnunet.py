"""What does a map cost beside ``nnUNetv2_predict``, when two fifths of the windows hold the target?

Runs the commands as users do, on a network of nnU-Net's own shape with random weights:
``python benchmarks/nnunet.py``. Starting the program is part of it. nnunetv2-cam (``pip install
--no-deps nnunetv2-cam``) is measured beside if it is installed; it makes no prediction file, so its
time is that of its maps alone.
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

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import cases  # noqa: E402, F401  # lets torchvision import beside a torch of another index
import run  # noqa: E402  # found by the line above
from support.nnunet_toy import make_folder  # noqa: E402  # found by the line above

GOAL = {"medcam": " (goal: ≤ 1.6×)"}
SHAPE, PATCH = (120, 120, 120), (40, 40, 40)

PEER = """
import sys, torch, warnings
warnings.simplefilter("ignore")
for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor d, Tensor s, float i) -> Tensor")
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2_cam.api import run_cam_for_prediction
predictor = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False,
                            device=torch.device("cpu"), allow_tqdm=False)
predictor.initialize_from_trained_model_folder(sys.argv[1], (0,))
run_cam_for_prediction(predictor, sys.argv[2], sys.argv[3], "encoder.stages.2", 1,
                       device=torch.device("cpu"), cam_type="3d", save_slices=False)
"""


def prepare(folder: Path) -> dict[str, str]:
    """A trained folder, a case and a region that two fifths of the windows hold."""
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
    """The seconds of a command."""
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
    """The table, printed and put beside the other figures (`run.add`)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    tools = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        made = prepare(Path(name))
        out = Path(name) / "out"
        theirs = [
            str(tools / "nnUNetv2_predict_from_modelfolder"), "-i", made["images"], "-o",
            str(out / "theirs"), "-m", made["trained"], "-f", "0", "-device", "cpu", "-npp", "1",
            "-nps", "1",
        ]  # fmt: skip
        ours = [
            str(tools / "medcam"), "nnunet", "explain", "-m", made["trained"], "-i", made["images"],
            "-o", str(out / "ours"), "--label", "PZ", "--target", made["region"], "--device", "cpu",
        ]  # fmt: skip
        peer = [sys.executable, "-c", PEER, made["trained"],
                f"{made['images']}/case_0000.nii.gz", str(out / "peer")]  # fmt: skip
        ratios: dict[str, list[float]] = {"medcam": [], "nnunetv2-cam": []}
        seconds = []
        for _ in range(rounds):
            plain = timed(theirs)
            seconds.append(plain)
            ratios["medcam"].append(timed(ours) / plain)
            try:
                ratios["nnunetv2-cam"].append(timed(peer) / plain)
            except RuntimeError as error:
                print(f"nnunetv2-cam: {str(error).splitlines()[-1]}", file=sys.stderr)
        record = json.loads((out / "ours" / "case.json").read_text())
    windows = record["windows"]
    result = {
        "seconds of nnUNetv2_predict": round(statistics.median(seconds), 1),
        "windows": windows["windows"],
        "windows that hold the target": windows["windows_explained"],
        **{
            f"{name}{GOAL.get(name, '')}": f"{statistics.median(r):.2f}×"
            for name, r in ratios.items()
            if r
        },
    }
    for key, value in result.items():
        print(f"{key:32} {value}")
    run.add("nnunet", result)


if __name__ == "__main__":
    main()
