"""Scores by MONAI, of two boolean arrays."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
)


def monai_hd95(region, mask, spacing) -> float:
    with _its_own_deprecation():
        return compute_hausdorff_distance(
            _batch(region), _batch(mask), include_background=True, percentile=95, spacing=spacing
        ).item()


def monai_assd(region, mask, spacing) -> float:
    with _its_own_deprecation():
        return compute_average_surface_distance(
            _batch(region), _batch(mask), include_background=True, symmetric=True, spacing=spacing
        ).item()


def monai_dice(region, mask) -> float:
    return compute_dice(_batch(region), _batch(mask)).item()


def monai_iou(region, mask) -> float:
    return compute_iou(_batch(region), _batch(mask)).item()


def _batch(region: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(region)[None, None].float()


@contextmanager
def _its_own_deprecation():
    """MONAI 1.6 calls its own deprecated argument."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*get_mask_edges:always_return_as_numpy", category=FutureWarning
        )
        yield
