"""torchvision's compiled extension does not load beside a CPU build of torch of another index.

Its Python side only needs two operators to be *declared* before it can be imported. timm,
segmentation-models-pytorch, torchmetrics and grad-cam import it. Where the extension loads, the
operators must not be declared: two declarations of one operator abort the process.
"""

from __future__ import annotations

import importlib
import sys

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_MISSING = "operator torchvision::nms does not exist"


def make_importable() -> None:
    """Import torchvision; if its operators are missing, declare them and import it again.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: The import fails for another reason.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", _SCHEMA)
        importlib.import_module("torchvision")
