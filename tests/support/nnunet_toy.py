"""A small trained nnU-Net v2 folder, made with nnunetv2's own classes, and a case for it.

It has two channels, a transposition, anisotropic spacing, an oblique affine and an empty margin, so
that each step of preprocessing, and of the way back, changes the image.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

_ARCHITECTURES = {"PlainConvUNet": ("unet", "n_conv_per_stage", 2),
                  "ResidualEncoderUNet": ("unet", "n_blocks_per_stage", 1)}  # fmt: skip


def architecture(name="PlainConvUNet", dims=3, features=(6, 8, 10)):
    stages = len(features)
    module, blocks, count = _ARCHITECTURES[name]
    conv, norm = (
        f"torch.nn.modules.conv.Conv{dims}d",
        f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
    )
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.{module}.{name}",
        "arch_kwargs": {
            "n_stages": stages, "features_per_stage": list(features),
            "conv_op": conv, "kernel_sizes": [[3] * dims] * stages,
            "strides": [[1] * dims] + [[2] * dims] * (stages - 1), blocks: [count] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1), "conv_bias": True, "norm_op": norm,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None,
            "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }  # fmt: skip


def _configuration(dims, patch, spacing, channels, arch, features):
    resample = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": "toy", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": list(patch), "median_image_size_in_voxels": [20.0] * dims,
        "spacing": list(spacing), "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resample,
        "resampling_fn_seg_kwargs": {**resample, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resample, "order": 1},
        "architecture": architecture(arch, dims, features), "batch_dice": False,
    }  # fmt: skip


LABELS = {"background": 0, "PZ": 1, "TZ": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


def make_folder(
    folder,
    *,
    configuration="3d_fullres",
    channels=2,
    arch="PlainConvUNet",
    regions=False,
    reader="SimpleITKIO",
    transpose=(2, 0, 1),
    folds=(0, 1),
    mirror=(0, 1, 2),
    patch=None,
    spacing=None,
    ending=".nii.gz",
    extra=None,
    features=(6, 8, 10),
):
    """Write plans.json, dataset.json and the folds; return the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dims = 2 if configuration == "2d" else 3
    labels = REGIONS if regions else LABELS
    back = [list(transpose).index(i) for i in range(3)]
    plain = _configuration(
        3, patch or (16, 12, 12), spacing or (1.5, 1.0, 1.25), channels, arch, features
    )
    plans = {
        "dataset_name": "Dataset999_Toy", "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.5, 1, 1],
        "original_median_shape_after_transp": [20, 20, 20], "image_reader_writer": reader,
        "transpose_forward": list(transpose), "transpose_backward": back,
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(c): {"max": 1, "mean": 0.5, "median": 0.5, "min": 0, "percentile_00_5": 0,
                     "percentile_99_5": 1, "std": 0.3} for c in range(channels)},
        "configurations": {
            "2d": _configuration(
                2, (patch or (16, 16, 12))[-2:], (spacing or (1.5, 1.0, 1.25))[-2:], channels, arch,
                features,
            ),
            "3d_fullres": plain,
            "3d_lowres": _configuration(
                3, patch or (12, 12, 8), (2.0, 1.5, 1.75), channels, arch, features
            ),
            "3d_cascade_fullres": {**plain, "previous_stage": "3d_lowres"},
        },
    }  # fmt: skip
    dataset = {
        "channel_names": {str(c): ["T2", "ADC", "DWI"][c] for c in range(channels)},
        "labels": labels, "numTraining": 2, "file_ending": ending,
    }  # fmt: skip
    if regions:
        dataset["regions_class_order"] = [1, 2]
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    mirror = tuple(axis for axis in mirror if axis < dims) or None
    for number, fold in enumerate(folds):
        network = build(plans, dataset, configuration)
        torch.manual_seed(10 + number)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, 0, 0.4)
        _balance(network, plans["configurations"][configuration]["patch_size"])
        state = {
            "network_weights": network.state_dict(), "optimizer_state": None,
            "grad_scaler_state": None,
            "logging": {"ema_fg_dice": [np.float64(0.5), np.float32(0.2)], "epochs": [np.int64(3)]},
            "_best_ema": np.float64(0.5), "current_epoch": 1,
            "init_args": {"configuration": configuration, "fold": fold, "plans": plans},
            "trainer_name": "nnUNetTrainer", "inference_allowed_mirroring_axes": mirror,
            **(extra or {}),
        }  # fmt: skip
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        torch.save(state, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


@torch.no_grad()
def _balance(network, patch):
    """Scale the head to logits of mean 0 and deviation 1, so that each class is predicted."""
    channels = next(network.parameters()).shape[1]
    logits = network.eval()(torch.randn(4, channels, *patch)).transpose(0, 1).flatten(1)
    head = network.decoder.seg_layers[-1]
    mean, deviation = logits.mean(1), logits.std(1)
    head.weight /= deviation.reshape(-1, *[1] * (head.weight.ndim - 1))
    head.bias.copy_((head.bias - mean) / deviation)


def build(plans, dataset, configuration):
    """Return the network as nnunetv2's trainer builds it."""
    with contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
        from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        manager = PlansManager(plans)
        chosen = manager.get_configuration(configuration)
        heads = manager.get_label_manager(dataset).num_segmentation_heads
        channels = determine_num_input_channels(manager, chosen, dataset)
        return nnUNetTrainer.build_network_architecture(
            manager, chosen, channels, heads, enable_deep_supervision=False
        )


def oblique(spacing=(0.9, 1.1, 1.6)):
    """Return a left-handed, rotated, anisotropic affine."""
    a, b = 0.3, -0.2
    rotation = np.array(
        [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    ) @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-spacing[0], spacing[1], spacing[2]])
    affine[:3, 3] = (12.5, -30.25, 7.75)
    return affine


def make_image(shape=(19, 23, 17), channels=2, margin=2, seed=0):
    """Return smooth noise within an empty margin, ``[channels, X, Y, Z]``."""
    generator = np.random.default_rng(seed)
    inner = [n - 2 * margin for n in shape]
    coarse = torch.from_numpy(generator.random((1, channels, 5, 5, 5), np.float32))
    smooth = torch.nn.functional.interpolate(coarse, inner, mode="trilinear")[0].numpy()
    image = np.zeros((channels, *shape), np.float32)
    image[:, margin:-margin, margin:-margin, margin:-margin] = 50 + 200 * smooth
    return image


def write_case(folder, image, affine, name="case", ending=".nii.gz"):
    """Write one NIfTI file per channel; return the first."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for channel, values in enumerate(image):
        nib.save(nib.Nifti1Image(values, affine), folder / f"{name}_{channel:04d}{ending}")
    return folder / f"{name}_0000{ending}"
