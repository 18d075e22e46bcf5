"""`ModelReference`: a weak reference to the model that was explained."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn


class ModelReference:
    """Weak reference to a model; after pickling only the class name survives.

    Args:
        model: The model; None if it is unknown.

    Attributes:
        kind: The model's class, ``"module.Class"``; None if it is unknown.

    Example:
        >>> import torch
        >>> reference = ModelReference(torch.nn.Linear(1, 1))
        >>> reference() is None, reference.kind
        (True, 'torch.nn.modules.linear.Linear')
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._model = None if model is None else weakref.ref(model)
        kind = type(model)
        self.kind = None if model is None else f"{kind.__module__}.{kind.__qualname__}"

    def __call__(self) -> nn.Module | None:
        """Return the model; None if it no longer exists."""
        return None if self._model is None else self._model()

    def __deepcopy__(self, memo: object) -> ModelReference:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": None, "kind": self.kind}
