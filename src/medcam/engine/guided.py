"""Guided backpropagation on the graph: rectifiers let only positive gradients through.

Springenberg et al., arXiv 1412.6806: ``R_in = 1[f > 0] · 1[R_out > 0] · R_out`` at every ReLU.
Instead of replacing the user's ReLU modules, the rectifiers are found as nodes of the autograd
graph, so that ``nn.ReLU``, ``F.relu``, ``torch.relu``, in-place and shared ones are all the same.
The gradient that *enters* a rectifier is clamped at zero, then the node's own derivative applies:
for ReLU exactly the formula above; for LeakyReLU, PReLU, ELU, SELU, CELU and Softplus, which grow
everywhere, clamping before or after is the same. For GELU, SiLU, Mish and Hardswish, which do not,
it is an extension of this package.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medcam.engine.graph import nodes
from medcam.engine.memory import lean
from medcam.errors import NoMapError, warn

_RECTIFIERS = frozenset(
    {
        "Relu", "Threshold", "LeakyRelu", "PreluKernel", "Elu", "Celu", "Gelu", "Silu", "Mish",
        "Hardswish", "Hardtanh", "Softplus", "RreluWithNoise",
    }
)  # fmt: skip
_IN_PLACE: dict[Any, Any] = {
    torch.relu_: torch.relu,
    torch.celu_: torch.celu,
    torch.selu_: torch.selu,
    torch.clamp_: torch.clamp,
    torch.clamp_min_: torch.clamp_min,
    Tensor.relu_: Tensor.relu,
    Tensor.clamp_: Tensor.clamp,
    Tensor.clamp_min_: Tensor.clamp_min,
    F.leaky_relu_: F.leaky_relu,
    F.elu_: F.elu,
    F.hardtanh_: F.hardtanh,
    F.rrelu_: F.rrelu,
    torch.threshold_: torch.threshold,
    F.relu_: F.relu,
    F.celu_: F.celu,
    F.selu_: F.selu,
}
_BY_OPTION = frozenset(
    {
        F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.silu, F.mish, F.hardswish,
        F.hardtanh, F.threshold, F.rrelu,
    }
)  # fmt: skip
_OPAQUE = {
    "CompiledFunctionBackward": "compiled code",
    "CheckpointFunctionBackward": "reentrant activation checkpointing",
    "DifferentiableGraphBackward": "TorchScript",
}


def _kind(node: Any) -> str:
    """``"LeakyRelu"`` of ``"LeakyReluBackward1"``."""
    return str(node.name()).rstrip("0123456789").removesuffix("Backward")


def _is_rectifier(node: Any) -> bool:
    kind = _kind(node)
    if kind in _RECTIFIERS:
        return True
    if kind in {"Clamp", "ClampMin"}:
        low = getattr(node, "_saved_min", None)
        return bool(low == 0) if not isinstance(low, Tensor) else not bool(low.any())
    if kind == "Maximum":
        saved = (node._saved_self, node._saved_other)
        return any(not part.requires_grad and not bool(part.any()) for part in saved)
    return False


class VisibleRectifiers(TorchFunctionMode):
    """Within it, in-place rectifiers on views are nodes of the graph like all others.

    Autograd folds an in-place operation on a view into one opaque node. An instance norm returns a
    view, so that would hide every in-place LeakyReLU of an nnU-Net. Here the rectifier runs out of
    place, on a copy, and its result is copied into the view: the same values, a node of its own.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation; an in-place rectifier on a view in two steps."""
        kwargs = kwargs or {}
        x = args[0] if args else None
        if isinstance(x, Tensor) and x.requires_grad and x._is_view():
            if func in _IN_PLACE:
                return x.copy_(_IN_PLACE[func](x.clone(), *args[1:], **kwargs))
            if func in _BY_OPTION:
                bound = inspect.signature(func).bind(*args, **kwargs)
                if bound.arguments.get("inplace"):
                    bound.arguments["inplace"] = False
                    return x.copy_(func(x.clone(), *bound.args[1:], **bound.kwargs))
        return func(*args, **kwargs)


def _is_custom(node: Any) -> bool:
    """Whether a node is a Python function of somebody else's."""
    return isinstance(node, torch.autograd.function.BackwardCFunction) and not _is_lean(node)


def _is_lean(node: Any) -> bool:
    """Whether a node is one of `medcam.engine.memory.lean`."""
    function: Any = getattr(node, "_forward_cls", None)
    return getattr(function, "__module__", "").startswith(f"{lean.__name__}.")


def _clamped(grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if grad is None else grad.clamp(min=0) for grad in grads)


@contextmanager
def rectified(scores: Tensor) -> Iterator[int]:
    """Within it, backward passes from ``scores`` are guided; yields the number of rectifiers.

    Raises:
        NoMapError: There is no rectifier, so the guided gradient would be the plain one.
    """
    found = nodes(scores.grad_fn)
    rectifiers = [node for node in found if _is_rectifier(node)]
    if not rectifiers:
        raise NoMapError(
            "No rectifier (ReLU, LeakyReLU, PReLU, ELU, GELU, SiLU, ...) was found between the "
            "input and the target, so guided backpropagation would equal the plain gradient: use "
            "method='saliency', or build the network with one of these activations."
        )
    hidden = {
        (str(node.name()), text)
        for node in found
        for name, text in _OPAQUE.items()
        if str(node.name()).startswith(name)
    } | {
        (str(node.name()), "a custom autograd function")
        for node in found
        if _is_custom(node) and not str(node.name()).startswith(tuple(_OPAQUE))
    }
    if hidden:
        listed = ", ".join(sorted(f"{name} ({text})" for name, text in hidden))
        warn(
            f"Guided backpropagation cannot see rectifiers inside {listed}: if there are any, the "
            "plain gradient passes them."
        )
    own = [node for node in rectifiers if _is_lean(node)]
    handles = [node.register_prehook(_clamped) for node in rectifiers if not _is_lean(node)]
    for node in own:
        node.clamped = True
    try:
        yield len(rectifiers)
    finally:
        for node in own:
            node.clamped = False
        for handle in handles:
            handle.remove()
