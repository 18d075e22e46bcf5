"""Training of a small nnU-Net with nnunetv2's own commands, on the packaged head."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from medcam.demo import load_head
from support import torchvision_shim

TRAINER = '''
import random

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerShort(nnUNetTrainer):
    """A few short epochs, the same ones each time."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch = 4, 25
        self.num_val_iterations_per_epoch, self.initial_lr = 2, 0.03
'''


def command(name, *arguments, environment):
    """Run one of nnU-Net's commands; return what it printed."""
    path = Path(sys.executable).with_name(name)
    done = subprocess.run(  # noqa: S603  # nnU-Net's own commands
        [str(path), *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def coarse(mm=5.0):
    """Return the packaged head and its brain mask on coarse voxels, with the affine."""
    head = load_head()
    factor = abs(float(np.linalg.norm(head.affine[:3, 0]))) / mm
    image = ndimage.zoom(head.volume.astype(np.float32), factor, order=1)
    mask = ndimage.zoom(head.mask.astype(np.float32), factor, order=1) > 0.5
    affine = head.affine.copy()
    affine[:3, :3] /= factor
    return image, mask.astype(np.uint8), affine


def write_dataset(raw):
    """Write six mirrored and shifted views of the head as a dataset; return the held-out image."""
    folder = Path(raw) / "Dataset999_Brain"
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    image, mask, affine = coarse()
    for number in range(6):
        views = []
        for values, order in ((image, 1), (mask, 0)):
            turned = values[::-1] if number % 2 else values
            views.append(ndimage.shift(turned, (number - 2, 0, 1 - number // 2), order=order))
        brightened = views[0] * (1 + 0.1 * number)
        nib.save(nib.Nifti1Image(brightened, affine), folder / f"imagesTr/head{number}_0000.nii.gz")
        nib.save(nib.Nifti1Image(views[1], affine), folder / f"labelsTr/head{number}.nii.gz")
    held = folder / "imagesTs" / "held_0000.nii.gz"
    nib.save(nib.Nifti1Image(ndimage.shift(image, (1, -2, 0), order=1), affine), held)
    nib.save(
        nib.Nifti1Image(ndimage.shift(mask, (1, -2, 0), order=0), affine),
        folder / "held_mask.nii.gz",
    )
    text = {
        "channel_names": {"0": "T1"}, "labels": {"background": 0, "brain": 1}, "numTraining": 6,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(text))
    return held


def train(folder):
    """Plan, preprocess and train; return the trained folder, an image and the environment."""
    folder = Path(folder)
    (folder / "trainers").mkdir(parents=True)
    (folder / "trainers" / "short.py").write_text(TRAINER)
    (folder / "site").mkdir()
    # nnU-Net imports timm, which imports torchvision.
    shim = Path(torchvision_shim.__file__).read_text()
    (folder / "site" / "sitecustomize.py").write_text(f"{shim}\n\nmake_importable()\n")
    environment = {
        "nnUNet_raw": str(folder / "raw"), "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"), "nnUNet_extTrainer": str(folder / "trainers"),
        "nnUNet_compile": "false", "nnUNet_n_proc_DA": "1", "OMP_NUM_THREADS": "2",
        "PYTHONPATH": str(folder / "site"),
    }  # fmt: skip
    held = write_dataset(folder / "raw")
    command(
        "nnUNetv2_plan_and_preprocess", "-d", 999, "-c", "3d_fullres", "--no_pp",
        "--verify_dataset_integrity", "-npfp", 1, environment=environment,
    )  # fmt: skip
    plans = folder / "preprocessed/Dataset999_Brain/nnUNetPlans.json"
    _shrink(plans)
    command("nnUNetv2_preprocess", "-d", 999, "-c", "3d_fullres", "-np", 1, environment=environment)
    command(
        "nnUNetv2_train", 999, "3d_fullres", 0, "-tr", "nnUNetTrainerShort", "-device", "cpu",
        environment={**environment, "nnUNet_n_proc_DA": "0"},
    )  # fmt: skip
    trained = folder / "results/Dataset999_Brain/nnUNetTrainerShort__nnUNetPlans__3d_fullres"
    return trained, held, environment


def _shrink(path):
    """Make the network and its patches small enough for two CPU cores."""
    plans = json.loads(path.read_text())
    chosen = plans["configurations"]["3d_fullres"]
    chosen["patch_size"], chosen["batch_size"] = [24, 24, 24], 2
    kwargs = chosen["architecture"]["arch_kwargs"]
    stages = 3
    kwargs.update(
        n_stages=stages, features_per_stage=[8, 16, 32], kernel_sizes=[[3, 3, 3]] * stages,
        strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]], n_conv_per_stage=[1] * stages,
        n_conv_per_stage_decoder=[1] * (stages - 1),
    )  # fmt: skip
    path.write_text(json.dumps(plans))
