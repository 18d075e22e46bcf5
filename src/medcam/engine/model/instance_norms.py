"""Correct gradients of instance norms on the CPU.

PyTorch's backward pass of an instance norm of one sample reads a gradient with strides of its own
(channels last, e.g. before a ``permute`` and a ``Linear``) in the wrong order: the result differs
by its own size, in all versions up to 2.13 at least. A contiguous gradient is read correctly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

INSTANCE_NORMS = (F.instance_norm, torch.instance_norm)
"""The functions."""


def with_contiguous_gradient(output: Tensor) -> Tensor:
    """Return an instance norm's output, whose gradient is made contiguous from now on."""
    if output.requires_grad and output.device.type == "cpu":
        output.register_hook(_contiguous)  # type: ignore[no-untyped-call]  # no annotations
    return output


class CorrectInstanceNorms(TorchFunctionMode):
    """Mode in which instance norms get contiguous gradients in medcam's own backward passes.

    The caller's own backward pass through the same graph is PyTorch's, bit for bit.

    Args:
        observer: Called with every function, its arguments and its result.
    """

    def __init__(self, observer: Callable[[Any, Any, dict[str, Any], Any], None]) -> None:
        super().__init__()
        self._observer = observer
        self._ours = [False]  # a hook holds this list, not the mode, so that no graph is kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; the gradient of an instance norm is watched."""
        result = func(*args, **(kwargs or {}))
        self._observer(func, args, kwargs or {}, result)
        if func in INSTANCE_NORMS and result.requires_grad and result.device.type == "cpu":
            result.register_hook(partial(_contiguous_in, self._ours))
        return result

    @contextmanager
    def own_backward(self) -> Iterator[None]:
        """Run medcam's own backward passes."""
        self._ours[0] = True
        try:
            yield
        finally:
            self._ours[0] = False


def _contiguous_in(ours: Sequence[bool], gradient: Tensor | None) -> Tensor | None:
    """Return a gradient with plain strides in medcam's own backward passes."""
    return _contiguous(gradient) if ours[0] else None


def _contiguous(gradient: Tensor | None) -> Tensor | None:
    """Return a gradient with plain strides; None keeps it, also one that is undefined."""
    return None if gradient is None or gradient.is_contiguous() else gradient.contiguous()
