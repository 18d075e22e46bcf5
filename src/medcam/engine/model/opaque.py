"""Modules that run other software: they have no layers and no gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from medcam.engine.model.nested import map_tensors, tensors
from medcam.errors import NoMapError
from medcam.methods import METHODS, Method

_WITHOUT_GRADIENT = frozenset({"inputs", "score_of"})
"""Evidence that needs neither layers nor gradients of the model."""


class Opaque(nn.Module):
    """Base of modules whose result PyTorch cannot follow."""

    def barred(self, result: Any, inputs: Any) -> Any:
        """Return a result whose gradient is an error, where gradients are recorded.

        Without this, a network that is opaque in part would have a gradient that leaves this part
        out, and a wrong map.

        Args:
            result: Tensors, perhaps in a dict.
            inputs: The inputs of the module.
        """
        sources = [tensor for _, tensor in tensors(inputs) if tensor.requires_grad]
        if not sources or not torch.is_grad_enabled():
            return result
        text = _text(f"{type(self).__name__} as a part of this model")

        def bar(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            barred: Tensor = _Barred.apply(text, tensor, *sources)  # type: ignore[no-untyped-call]
            return barred

        return map_tensors(result, bar)


class _Barred(torch.autograd.Function):
    """Identity whose backward pass raises."""

    @staticmethod
    def forward(ctx: Any, text: str, result: Tensor, *sources: Tensor) -> Tensor:
        """Return the result; the sources connect it to the graph."""
        ctx.text = text
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """Raise."""
        raise NoMapError(ctx.text)


def check_transparent(model: nn.Module, methods: Iterable[Method]) -> None:
    """Raise if a method needs layers or gradients of a model that has none.

    Raises:
        NoMapError: It does; the message names the methods that work.
    """
    if not isinstance(model, Opaque):
        return
    for method in methods:
        if not method.evidence <= _WITHOUT_GRADIENT:
            raise NoMapError(f"{method.title}: {_text(type(model).__name__)}")


def _text(subject: str) -> str:
    """Return the message: what cannot be differentiated, and which methods work."""
    names = [repr(name) for name, method in METHODS.items() if method.evidence <= _WITHOUT_GRADIENT]
    return (
        f"{subject} runs other software than PyTorch, so it has no layers and cannot be "
        f"differentiated. Choose a method that only runs it again: {' or '.join(names)}."
    )
