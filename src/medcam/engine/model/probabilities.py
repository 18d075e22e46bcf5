"""The logits of a model that ends in a softmax or sigmoid.

A node of the graph does not hold its input, and the logits cannot be computed from probabilities
that are 0 or 1 up to rounding. So the inputs of the last such operations are kept while the model
runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medcam.engine.model.copies import version_of

_SOFTMAX = {
    F.softmax: "softmax", torch.softmax: "softmax", Tensor.softmax: "softmax",
    F.log_softmax: "log-softmax", torch.log_softmax: "log-softmax",
    Tensor.log_softmax: "log-softmax",
}  # fmt: skip
_SIGMOID = {
    torch.sigmoid: "sigmoid", Tensor.sigmoid: "sigmoid", F.sigmoid: "sigmoid",
    torch.special.expit: "sigmoid", F.logsigmoid: "log-sigmoid",
}  # fmt: skip
_COPIES = ("LazyClone", "Copy", "ViewBackward", "Identity")
_LARGEST_OUTPUT = 64  # channels: a larger tensor is no output, but attention weights
SIGMOIDS = frozenset(_SIGMOID.values())
"""The functions behind which channels may overlap."""
_MOST_KEPT = 8  # operations: of several outputs, each may end in one
_VIEWS = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Alias", "Clone", "Select",
          "Slice")  # fmt: skip
"""Operations that keep the order of the values, if they keep all."""


@dataclass(frozen=True, eq=False)
class Squashed:
    """The explained tensor of an output, before the operation that squashed it.

    Attributes:
        function: The operation, e.g. "softmax".
        logits: Its input, in the shape of the explained tensor.
    """

    function: str
    logits: Tensor


def ends_in(function: str) -> str:
    """Return the warning about a model that ends in a softmax or sigmoid."""
    return (
        f"The model ends in a {function}. Its logits are explained, from before the {function}: "
        "where the model is certain, probabilities have no gradient. A target= that is a function "
        "of the output explains the probabilities."
    )


@dataclass(frozen=True, eq=False)
class _Operation:
    """An operation that may be the model's last one.

    Attributes:
        name: Its name, e.g. "softmax".
        x: Its input.
        result: Its result.
        node: The node of the result in the graph; None without a graph.
        versions: The version counters of both, which a change in place increases.
    """

    name: str
    x: Tensor
    result: Tensor
    node: Any
    versions: tuple[int, int]

    @property
    def is_unchanged(self) -> bool:
        """Whether neither tensor was changed in place."""
        return self.versions == _versions(self.x, self.result)


@dataclass(eq=False)
class Probabilities:
    """The last operations of a run that may be the model's last one.

    Attributes:
        batch: The number of samples of the input.
        space: Its spatial extents.
    """

    batch: int
    space: tuple[int, ...]
    _kept: deque[_Operation] = field(default_factory=lambda: deque(maxlen=_MOST_KEPT))

    def note(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """Keep the input of an operation whose result may be the output of the model.

        Args:
            func: The function that ran.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            result: What it returned.
        """
        name = _SOFTMAX.get(func) or _SIGMOID.get(func)
        if name is None or not isinstance(result, Tensor) or not args:
            return
        x = args[0]
        if not isinstance(x, Tensor) or x is result or not self._may_be_output(result):
            return
        axis = args[1] if len(args) > 1 else kwargs.get("dim")
        if func in _SOFTMAX and isinstance(axis, int) and not self._is_of_classes(axis, result):
            return
        self._kept.append(_Operation(name, x, result, result.grad_fn, _versions(x, result)))

    def forget(self) -> None:
        """Release the tensors."""
        self._kept.clear()

    def before(self, chosen: Tensor, *, through_layers: bool = False) -> Squashed | None:
        """Return the logits of the explained tensor; None if no such operation computed it.

        Args:
            chosen: The explained tensor.
            through_layers: Whether the operation may be a recorded layer, whose output was copied.
        """
        views = (*_VIEWS, *_COPIES) if through_layers else _VIEWS
        nodes: list[Any] = []  # the explained tensor's, and those that it is a view of
        node: Any = chosen.grad_fn
        while node is not None:
            nodes.append(node)
            node = node.next_functions[0][0] if node.name().startswith(views) else None
        for operation in reversed(self._kept):
            if operation.node is None:
                is_source = not nodes and chosen.data_ptr() == operation.result.data_ptr()
            else:
                is_source = any(operation.node is node for node in nodes)
            x = operation.x
            if is_source and operation.is_unchanged and x.numel() == chosen.numel():
                logits = x if x.shape == chosen.shape else x.reshape(chosen.shape)
                return Squashed(operation.name, logits)
        return None

    def _may_be_output(self, result: Tensor) -> bool:
        """Return whether a tensor may hold logits, by its axes and size."""
        limit = max(_LARGEST_OUTPUT * self.batch * prod(self.space), 2**20)
        return result.ndim <= len(self.space) + 2 and result.numel() <= limit

    def _is_of_classes(self, axis: int, result: Tensor) -> bool:
        """Return whether an axis may be that of the classes, also of a squeezed output."""
        axis %= result.ndim
        return axis == 1 or (axis == 0 and len(result) != self.batch)


def _versions(x: Tensor, result: Tensor) -> tuple[int, int]:
    """Return the version counters of two tensors."""
    return version_of(x), version_of(result)


class ProbabilityWatch(TorchFunctionMode):
    """Mode that notes softmax and sigmoid in `Probabilities`."""

    def __init__(self, probabilities: Probabilities) -> None:
        super().__init__()
        self._probabilities = probabilities

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note it."""
        result = func(*args, **(kwargs or {}))
        self._probabilities.note(func, args, kwargs or {}, result)
        return result
