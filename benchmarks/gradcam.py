"""What does a Grad-CAM map cost beside the model's own forward pass, and beside other libraries?"""

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
    """One library on one network; ours is timed in turn with the floor.

    At 96³ only the libraries that are near are measured, as a call of the others takes minutes.
    """
    mine = column.startswith("medcam")
    near = ("medcam", "floor", "captum", "torchcam")
    if row.startswith("nnU-Net 96³") and column not in near:
        return None
    return measure.cell(
        CASES[row],
        LIBRARIES[column],
        floor=libraries.floor if mine else None,
        budget=10 if mine else 2,
        least=3 if mine else measure.LEAST,
    )
