"""Gradients with respect to the caller's own tensors, where the model ignores what it is given.

Some models are given an image but take it from where the caller stored it, such as a wrapper around
a network of several inputs. Then no leaf among the inputs is in the graph: the call is repeated
with the caller's own tensors as the leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from medcam.engine.graph import depends_on
from medcam.engine.model.nested import tensors
from medcam.engine.model.undo import Step

_Result = TypeVar("_Result")


class UnusedError(Exception):
    """The output does not depend on any leaf among the inputs."""


def require_used(output: Any, leaves: Iterable[Tensor], own: bool) -> None:
    """End a call whose output depends on no leaf, unless they are the caller's own.

    Args:
        output: The model's output.
        leaves: The leaves among the inputs.
        own: Whether they are the caller's own tensors.
    """
    leaves = list(leaves)
    if own or not leaves:
        return
    parts = [tensor for _, tensor in tensors(output) if tensor.requires_grad]
    if not any(any(depends_on(part, leaves)) for part in parts):
        raise UnusedError


def retried(record: Callable[..., _Result], images: Sequence[Tensor]) -> _Result:
    """Return ``record()``, or ``record(own=True)`` where the first ends by `require_used`.

    The images require gradients meanwhile; their flags are restored.
    """
    try:
        return record()
    except UnusedError:
        changed = [
            image for image in images if not image.requires_grad and not image.is_inference()
        ]

    def restore() -> None:
        for image in changed:
            image.requires_grad_(False)

    with Step(restore):
        for image in changed:
            image.requires_grad_()
        return record(own=True)
