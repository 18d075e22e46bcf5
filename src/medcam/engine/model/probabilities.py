"""The logits of a model that ends in a softmax or sigmoid.

A node of the graph does not hold its input, and the logits cannot be computed from probabilities
that are 0 or 1 up to rounding. So the inputs of the last such operations are kept while the model
runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SOFTMAX = {
    F.softmax: "softmax", torch.softmax: "softmax", Tensor.softmax: "softmax",
    F.log_softmax: "log-softmax", torch.log_softmax: "log-softmax",
    Tensor.log_softmax: "log-softmax",
}  # fmt: skip
_SIGMOID = {
    torch.sigmoid: "sigmoid", Tensor.sigmoid: "sigmoid", F.sigmoid: "sigmoid",
    torch.special.expit: "sigmoid", F.logsigmoid: "log-sigmoid",
}  # fmt: skip
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

    @property
    def exclusive(self) -> bool:
        """Whether the classes exclude each other, as after a softmax."""
        return "softmax" in self.function


def ends_in(function: str) -> str:
    """Return the warning about a model that ends in a softmax or sigmoid."""
    return (
        f"The model ends in a {function}. Its logits are explained, from before the {function}: "
        "where the model is certain, probabilities have no gradient. A target= that is a function "
        "of the output explains the probabilities."
    )


@dataclass(eq=False)
class Probabilities:
    """The last operations of a run that may be the model's last one.

    Attributes:
        batch: The number of samples of the input.
        space: Its spatial extents.
    """

    batch: int
    space: tuple[int, ...]
    _kept: deque[tuple[Tensor, Tensor, str]] = field(
        default_factory=lambda: deque(maxlen=_MOST_KEPT)
    )

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
        if not isinstance(x, Tensor) or x.shape != result.shape or not self._may_be_output(result):
            return
        axis = args[1] if len(args) > 1 else kwargs.get("dim")
        if func in _SOFTMAX and isinstance(axis, int) and axis % result.ndim != self._axis(result):
            return
        self._kept.append((result, x, name))

    def before(self, chosen: Tensor) -> Squashed | None:
        """Return the logits of the explained tensor; None if no such operation computed it."""
        nodes: list[Any] = []  # the explained tensor's, and those that it is a view of
        node: Any = chosen.grad_fn
        while node is not None:
            nodes.append(node)
            node = node.next_functions[0][0] if node.name().startswith(_VIEWS) else None
        for result, x, name in reversed(self._kept):
            if result.grad_fn is None:
                is_source = not nodes and chosen.data_ptr() == result.data_ptr()
            else:
                is_source = any(result.grad_fn is node for node in nodes)
            if is_source and x.numel() == chosen.numel():
                return Squashed(name, x if x.shape == chosen.shape else x.reshape(chosen.shape))
        return None

    def _may_be_output(self, result: Tensor) -> bool:
        """Return whether a tensor has the shape of logits, not that of attention weights."""
        shape = tuple(result.shape)
        whole = shape[1:] if shape[:1] == (self.batch,) else shape
        axes = len(self.space)
        return len(whole) <= 1 or (len(whole) in (axes, axes + 1) and whole[-axes:] == self.space)

    def _axis(self, result: Tensor) -> int:
        """Return the axis of the classes."""
        return 1 if result.ndim > 1 and len(result) == self.batch else 0


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
