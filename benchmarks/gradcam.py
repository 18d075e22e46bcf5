"""Grad-CAM: its cost compared with the plain forward pass and with other libraries."""

from __future__ import annotations

from typing import Any

import libraries
import measure
from cases import CASES

TITLE = "Grad-CAM"
GOALS = {
    "ResNet50 B=1, layer4": 1.05,
    "ResNet50 B=8, layer4": 1.05,
    "DenseNet121-3D 96³, features": 1.05,
    "nnU-Net 64³, last decoder stage": 1.15,
    "nnU-Net 64³, bottleneck": 1.9,
    "nnU-Net 96³, last decoder stage": 1.15,
    "nnU-Net 96³, bottleneck": 1.9,
}
LIBRARIES = {
    "medcam": libraries.ours(),
    "medcam, all CAMs": libraries.all_cams,
    "floor": libraries.floor,
    "captum": libraries.captum,
    "torchcam": libraries.torchcam,
    "pytorch-grad-cam": libraries.pytorch_grad_cam,
    "MONAI": libraries.monai,
}
ROWS, COLUMNS = list(GOALS), list(LIBRARIES)


def cell(row: str, column: str) -> dict[str, Any] | None:
    """Measure one library on one network; medcam is timed in turn with the floor.

    The slow libraries are not measured at 96³: their calls take minutes there.
    """
    is_medcam = column.startswith("medcam")
    fast = ("medcam", "floor", "captum", "torchcam")
    if row.startswith("nnU-Net 96³") and column not in fast:
        return None
    return measure.cell(
        CASES[row],
        LIBRARIES[column],
        floor=libraries.floor if is_medcam else None,
        budget=10 if is_medcam else 2,
        least=3 if is_medcam else measure.LEAST,
    )
