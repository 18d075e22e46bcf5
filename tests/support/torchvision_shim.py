"""torchvision's compiled extension does not load beside a CPU build of torch of another index.

Its Python side only needs two operators to be *declared* before it can be imported. timm,
segmentation-models-pytorch, torchmetrics and grad-cam import it.
"""

from __future__ import annotations

import contextlib

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def make_importable() -> None:
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # declared already: the extension did load
            torch.library.define(f"torchvision::{name}", _SCHEMA)
