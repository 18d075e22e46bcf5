"""Import torchvision where its compiled extension does not load.

The extension does not load if torch comes from another package index, e.g. a CPU build. Then the
operators of the extension are missing, and the import of torchvision fails because its Python code
registers more for them. Declaring two operators without an implementation is enough for the
import. timm, segmentation-models-pytorch, torchmetrics and grad-cam import torchvision.

Where the extension loads, it declares the operators itself. A second declaration raises in its
static initialiser, which aborts the process. So they are declared only after a failed import.
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
        RuntimeError: The import failed for another reason.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", _SCHEMA)
        importlib.import_module("torchvision")
