"""Subclasses of tensors in a forward pass that is followed, also with PyTorch 2.4."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from medcam.engine.model.undo import Step


@contextmanager
def made_outside_modes() -> Iterator[None]:
    """Let ``Tensor.as_subclass`` run outside dispatch modes, if this PyTorch fails inside one.

    MONAI's MetaTensor makes its results so. A result shares the memory of the tensor, by which it
    is known.
    """
    if not _fails_inside_modes():
        yield
        return

    def as_subclass(self: Tensor, cls: Any) -> Any:
        with _disable_current_modes():
            return torch._C.TensorBase.as_subclass(self, cls)

    attributes: Any = Tensor

    def restore() -> None:
        if "as_subclass" in vars(Tensor):
            del attributes.as_subclass

    with Step(restore):
        attributes.as_subclass = as_subclass
        yield


class _Subclass(Tensor):
    """A subclass of tensors."""


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's
    """A mode that changes nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@functools.cache
def _fails_inside_modes() -> bool:
    """Return whether making a subclass fails inside a dispatch mode, as with PyTorch 2.4."""
    with _Mode():  # type: ignore[no-untyped-call]  # PyTorch's
        try:
            torch.ones(1).as_subclass(_Subclass)
        except RuntimeError:
            return True
    return False
