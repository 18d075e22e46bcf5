"""Guided backpropagation on the graph: rectifiers let only positive gradients through.

Springenberg et al., arXiv 1412.6806: ``R_in = 1[f > 0] · 1[R_out > 0] · R_out`` at every ReLU.
The user's ReLU modules are not replaced. Rectifiers are nodes of the autograd graph, so
``nn.ReLU``, ``F.relu``, ``torch.relu``, in-place and shared modules are all treated alike.

The gradient that *enters* a rectifier is clamped at zero; then the node's own derivative applies.
For ReLU that is exactly the formula above. LeakyReLU, PReLU, ELU, SELU, CELU and Softplus are
monotonic, so clamping before or after the derivative is the same. GELU, SiLU, Mish and Hardswish
are not; for these it is an extension of this package.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
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
"""The operations of nodes that are always rectifiers."""

_OUT_OF_PLACE: dict[Any, Any] = {
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
"""The out-of-place function of each in-place rectifier."""

_WITH_INPLACE_ARGUMENT = frozenset(
    {
        F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.silu, F.mish, F.hardswish,
        F.hardtanh, F.threshold, F.rrelu,
    }
)  # fmt: skip
"""Rectifiers that work in place if ``inplace=True``."""

_OPAQUE = {
    "CompiledFunctionBackward": "compiled code",
    "CheckpointFunctionBackward": "reentrant activation checkpointing",
    "DifferentiableGraphBackward": "TorchScript",
}
"""Prefixes of the names of nodes that may contain rectifiers, and what such a node is."""


def _operation(node: Any) -> str:
    """Return a node's operation: ``"LeakyRelu"`` for ``"LeakyReluBackward1"``."""
    return str(node.name()).rstrip("0123456789").removesuffix("Backward")


def _is_rectifier(node: Any) -> bool:
    """Return whether a node is a rectifier, such as a ReLU, a clamp at 0 or a maximum with 0."""
    operation = _operation(node)
    if operation in _RECTIFIERS:
        return True
    if operation in {"Clamp", "ClampMin"}:
        minimum = getattr(node, "_saved_min", None)
        return bool(minimum == 0) if not isinstance(minimum, Tensor) else not bool(minimum.any())
    if operation == "Maximum":
        arguments = (node._saved_self, node._saved_other)
        return any(not tensor.requires_grad and not bool(tensor.any()) for tensor in arguments)
    return False


class VisibleRectifiers(TorchFunctionMode):
    """Mode in which in-place rectifiers on views are nodes of the graph like all others.

    Autograd folds an in-place operation on a view into one opaque node. An instance norm returns a
    view, so that would hide every in-place LeakyReLU of an nnU-Net. In this mode the rectifier runs
    out of place, on a copy, and its result is copied into the view. The values are the same.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; split an in-place rectifier on a view into rectifier and copy."""
        kwargs = kwargs or {}
        x = args[0] if args else None
        if isinstance(x, Tensor) and x.requires_grad and x._is_view():
            if func in _OUT_OF_PLACE:
                return x.copy_(_OUT_OF_PLACE[func](x.clone(), *args[1:], **kwargs))
            if func in _WITH_INPLACE_ARGUMENT:
                bound = inspect.signature(func).bind(*args, **kwargs)
                if bound.arguments.get("inplace"):
                    bound.arguments["inplace"] = False
                    return x.copy_(func(x.clone(), *bound.args[1:], **bound.kwargs))
        return func(*args, **kwargs)


def _is_custom(node: Any) -> bool:
    """Return whether a node is a custom autograd function that is not medcam's."""
    return isinstance(node, torch.autograd.function.BackwardCFunction) and not _is_lean(node)


def _is_lean(node: Any) -> bool:
    """Return whether a node is one of `medcam.engine.memory.lean`."""
    function: Any = getattr(node, "_forward_cls", None)
    return getattr(function, "__module__", "").startswith(f"{lean.__name__}.")


def _clamped(grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Return gradients clamped at zero."""
    return tuple(None if grad is None else grad.clamp(min=0) for grad in grads)


@contextmanager
def rectified(scores: Tensor) -> Iterator[int]:
    """Guide all backward passes from ``scores`` that run within this context.

    Args:
        scores: The tensor whose graph is searched for rectifiers.

    Yields:
        The number of rectifiers.

    Raises:
        NoMapError: There is no rectifier, so the guided gradient would be the plain one.
    """
    all_nodes = nodes(scores.grad_fn)
    rectifiers = [node for node in all_nodes if _is_rectifier(node)]
    if not rectifiers:
        raise NoMapError(
            "No rectifier (ReLU, LeakyReLU, PReLU, ELU, GELU, SiLU, ...) was found between the "
            "input and the target, so guided backpropagation would equal the plain gradient: use "
            "method='saliency', or build the network with one of these activations."
        )
    _warn_of_opaque(all_nodes)
    # medcam's own rectifiers clamp inside their backward pass while this flag is set
    lean_nodes = [node for node in rectifiers if _is_lean(node)]
    handles = [node.register_prehook(_clamped) for node in rectifiers if not _is_lean(node)]
    for node in lean_nodes:
        node.clamped = True
    try:
        yield len(rectifiers)
    finally:
        for node in lean_nodes:
            node.clamped = False
        for handle in handles:
            handle.remove()


def _warn_of_opaque(all_nodes: Iterable[Any]) -> None:
    """Warn of nodes that may contain rectifiers that the graph does not show."""
    opaque = set[str]()
    for node in all_nodes:
        name = str(node.name())
        descriptions = [text for prefix, text in _OPAQUE.items() if name.startswith(prefix)]
        if not descriptions and _is_custom(node):
            descriptions = ["a custom autograd function"]
        opaque.update(f"{name} ({text})" for text in descriptions)
    if opaque:
        warn(
            f"Guided backpropagation cannot see rectifiers inside {', '.join(sorted(opaque))}: if "
            "there are any, the plain gradient passes through them."
        )
