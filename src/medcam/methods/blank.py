"""Why a method's map is zero everywhere, as its evidence shows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from medcam.methods.method import Method

BlankReason = Literal[
    "no gradient", "no input gradient", "no guided gradient", "no activation", "cancelling",
    "no sum", "negative", "apart", "constant", "unchanged", "unknown",
]  # fmt: skip
"""Why a map is zero: evidence that is zero; gradients, or activations, that cancel in each channel;
only negative evidence; gradients and activations in different places; a constant layer; no change
of the image changes the score; a reason that only the method's own function knows."""

_PRODUCTS = (("activations", "gradients"), ("inputs", "input_gradients"))
"""Evidence that a map may be the product of."""

_ZERO_EVIDENCE: tuple[tuple[BlankReason, str], ...] = (
    ("no gradient", "gradients"),
    ("no input gradient", "input_gradients"),
    ("no guided gradient", "guided_gradients"),
    ("no activation", "activations"),
)


def why_blank(
    method: Method, evidence: Mapping[str, Any], values: Tensor
) -> dict[BlankReason, Bool[Tensor, " batch"]]:
    """Return the samples whose map is zero everywhere, by the reason; none on the CPU: empty.

    Args:
        method: The method.
        evidence: The evidence by name.
        values: The map. On the CPU, if no sample's map is zero, nothing more is computed.
    """
    if values.device.type == "cpu" and values.numpy().reshape(len(values), -1).any(1).all():
        return {}
    rest = ~values.flatten(1).any(1)
    if method.replays:
        return {why_replayed_blank(method): rest}
    flags: dict[BlankReason, Tensor] = {}
    for reason, name in _ZERO_EVIDENCE:
        if name not in method.evidence:
            continue
        flags[reason] = rest & ~evidence[name].flatten(1).any(1)
        rest = rest & ~flags[reason]
    if method.weights is not None:
        parameters = inspect.signature(method.weights).parameters
        weights = method.weights(**{name: evidence[name] for name in parameters})
        cancelled: BlankReason = "no sum" if "activations" in parameters else "cancelling"
        flags[cancelled] = rest & (weights == 0).all(1)
        rest = rest & ~flags[cancelled]
    if not method.evidence & {"gradients", "input_gradients", "guided_gradients"}:
        flags["constant"] = rest
    elif method.rectified:
        flags["negative"] = rest
    else:
        pairs = [(a, b) for a, b in _PRODUCTS if {a, b} <= method.evidence]
        products = [(evidence[a] * evidence[b]).flatten(1).any(1) for a, b in pairs]
        flags["apart"] = rest & ~torch.stack([*products, rest.logical_not()]).any(0)
        flags["unknown"] = rest & ~flags["apart"]
    return flags


def why_replayed_blank(method: Method) -> BlankReason:
    """Return why the map of a method that runs the model again is zero everywhere."""
    return "negative" if (method.repeated or method).rectified else "unchanged"
