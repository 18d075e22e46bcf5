"""A small nnU-Net v2 folder, trained for seconds on one head: a toy to try the calls with.

The network, the plans and the checkpoint are made with nnunetv2's own classes and have nnU-Net's
format. The training is not nnU-Net's. A folder of yours comes from ``nnUNetv2_train``.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from medcam import demo

SPACING = (4.0, 4.0, 4.0)  # mm, of the network's grid
PATCH = (32, 32, 32)


def make_folder(folder: str | Path, steps: int = 50) -> Path:
    """Writes a trained folder and returns it.

    Args:
        folder: Where to.
        steps: How long it is trained.
    """
    folder = Path(folder)
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    plans, dataset = _plans(), _dataset()
    network = _train(_network(plans, dataset), steps)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    state = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres", "fold": 0, "plans": plans},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(state, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def write_case(folder: str | Path) -> Path:
    """Writes the packaged head under the name that nnU-Net wants, and returns the file."""
    path = Path(folder, "head_0000.nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(demo.load_head().path, path)
    return path


def _train(network: torch.nn.Module, steps: int) -> torch.nn.Module:
    """On patches of the packaged head, mirrored and with noise."""
    head = demo.load_head()
    step = np.linalg.norm(head.affine[:3, :3], axis=0) / SPACING
    grid = [round(extent * size) for extent, size in zip(head.volume.shape, step, strict=True)]
    # as SimpleITK reads it: z, y, x
    image = torch.from_numpy(head.volume.copy()).permute(2, 1, 0)[None, None]
    truth = torch.from_numpy(head.mask.astype(np.float32)).permute(2, 1, 0)[None, None]
    image = F.interpolate(image, grid[::-1], mode="trilinear")
    truth = (F.interpolate(truth, grid[::-1], mode="trilinear") > 0.5).long()
    image = (image - image.mean()) / image.std()

    chance = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    network.train()
    for _ in range(steps):
        starts = [
            int(torch.randint(extent - size + 1, (), generator=chance))
            for extent, size in zip(image.shape[2:], PATCH, strict=True)
        ]
        window = (..., *(slice(a, a + size) for a, size in zip(starts, PATCH, strict=True)))
        mirrored = [axis for axis in (2, 3, 4) if torch.rand((), generator=chance) < 0.5]
        seen, wanted = image[window].flip(mirrored), truth[window].flip(mirrored)
        seen = seen + 0.1 * torch.randn(seen.shape, generator=chance)
        loss = F.cross_entropy(network(seen), wanted[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def _network(plans: dict[str, Any], dataset: dict[str, Any]) -> torch.nn.Module:
    """The network that nnU-Net builds of the plans."""
    with contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        torch.manual_seed(0)
        manager = PlansManager(plans)
        configuration = manager.get_configuration("3d_fullres")
        return nnUNetTrainer.build_network_architecture(
            manager, configuration, 1, 2, enable_deep_supervision=False
        )


def _dataset() -> dict[str, Any]:
    return {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "brain": 1},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }


def _plans() -> dict[str, Any]:
    resample = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    linear = {**resample, "order": 1}
    return {
        "dataset_name": "Dataset999_Toy",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(SPACING),
        "original_median_shape_after_transp": [46, 55, 46],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},  # z-scores need none
        "configurations": {
            "3d_fullres": {
                "data_identifier": "toy",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(PATCH),
                "median_image_size_in_voxels": [46.0, 55.0, 46.0],
                "spacing": list(SPACING),
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resample,
                "resampling_fn_seg_kwargs": {**linear, "is_seg": True},
                "resampling_fn_probabilities_kwargs": linear,
                "architecture": _architecture(),
                "batch_dice": False,
            }
        },
    }


def _architecture() -> dict[str, Any]:
    stages = 3
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [8, 16, 32],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            "n_conv_per_stage": [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
