"""Gradients with respect to the caller's own tensor, where the model ignores what it is given.

Some models are given an image but take it from where the caller stored it, such as a wrapper around
a network of several inputs. Then the leaf among the inputs is not in the graph: the call is
repeated with the caller's own tensor as the leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from medcam.engine.graph import depends_on

_Result = TypeVar("_Result")


class _UnusedError(Exception):
    """The output does not depend on the leaf among the inputs."""


def require_used(logits: Tensor, leaf: Tensor | None, own: Tensor | None) -> None:
    """End a call whose output does not depend on the leaf, unless that is the caller's own."""
    if leaf is not None and own is None and not depends_on(logits, [leaf])[0]:
        raise _UnusedError


def retried(record: Callable[..., _Result], image: Tensor) -> _Result:
    """Return ``record()``, or ``record(own=image)`` where the first ends by `require_used`.

    The image requires a gradient meanwhile; its flag is restored.
    """
    try:
        return record()
    except _UnusedError:
        if image.is_inference():
            return record(own=image)
    required = image.requires_grad
    try:
        return record(own=image.requires_grad_())
    finally:
        if not required:
            image.requires_grad_(False)
