"""What is noticed about a run that its user should know."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from medcam._findings import Findings
from medcam.errors import MedcamError, warn

_ENDS = {
    "SoftmaxBackward0": "a softmax",
    "LogSoftmaxBackward0": "a log-softmax",
    "SigmoidBackward0": "a sigmoid",
}

_VIEWS = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Select", "Clone",
          "Permute", "Transpose", "Alias", "Expand")  # fmt: skip


def look_for_infinity(findings: Findings, values: Tensor, meaning: MedcamError) -> None:
    """A finding for samples that hold a NaN or an infinity.

    Where looking costs nothing, on the CPU, a finite sum says in one pass that there are none.
    """
    if values.device.type == "cpu" and isfinite(float(values.sum())):
        return
    findings.add(~(values.flatten(1).abs().amax(1) < float("inf")), meaning)


def warn_of_cancelling(weightless: Mapping[str, Tensor], findings: Findings) -> None:
    """A finding for layers of which a map is zero since the gradients of each channel cancel.

    Where looking costs nothing, on the CPU, one for all of them; elsewhere one for each.
    """
    together = [
        layer for layer, flags in weightless.items() if flags.device.type == "cpu" and flags.any()
    ]
    alone = [[layer] for layer, flags in weightless.items() if flags.device.type != "cpu"]
    for names in [together, *alone]:
        if not names:
            continue
        named = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
        findings.add(
            torch.stack([weightless[layer] for layer in names]).any(0),
            f"The gradients of each channel cancel at layer{'s' * (len(names) > 1)} {named}, so "
            "Grad-CAM's weights and its map are zero there, for sample(s) {samples}. That is so "
            "before a normalisation that takes each channel's mean off (instance norm): choose "
            "the layer after it, or method='hirescam', which needs no mean.",
        )


def warn_of_squashing(logits: Tensor) -> None:
    """A warning if what is explained is no logit any more."""
    node: Any = logits.grad_fn
    while node is not None and node.name().startswith(_VIEWS):
        node = node.next_functions[0][0]
    ends = _ENDS.get(node.name()) if node is not None else None
    if ends is not None:
        warn(
            f"The model ends in {ends}: its gradient vanishes where the model is sure, and maps "
            "of probabilities mix the classes. Explain the logits before it: remove the last "
            "layer, or choose the logits with output= if the model returns them."
        )
