"""Operations that save only what gradients of *activations* need; they never change a result.

PyTorch saves the input of a convolution, of a batch norm in evaluation mode and of a pooling,
although with frozen parameters only its shape is needed. It saves the whole result of a rectifier,
although one bit per value is enough. The functions here call the same kernels, forward and
backward, with a placeholder in place of the saved input. Predictions and gradients are the same
bit for bit, except for a NaN in a LeakyReLU, for which no map is made anyway.

A deep copy of a tensor in the graph is a clone. PyTorch refuses it, so that a detector that copies
its boxes would fail only because medcam enabled gradients.

A gradient that PyTorch leaves undefined, behind an operation without a derivative, stays undefined:
zeros in its place would look like a map.

Unsupported cases run PyTorch's own operation: parameters that require gradients, tensor
subclasses, memory layouts that are not contiguous, padding by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medcam.engine.memory.lean.common import Rule
from medcam.engine.memory.lean.convolutions import convolution
from medcam.engine.memory.lean.copies import deepcopy
from medcam.engine.memory.lean.normalisations import batch_norm, instance_norm
from medcam.engine.memory.lean.pooling import avg_pool, max_pool
from medcam.engine.memory.lean.rectifiers import leaky_relu, relu
from medcam.engine.model.instance_norms import INSTANCE_NORMS, with_contiguous_gradient
from medcam.errors import chain_of, is_out_of_memory

__all__ = ["DeferredLeanBackward", "LeanBackward", "caused"]

Observer = Callable[[Any, Any, dict[str, Any], Any], None]
"""What is called with each function, its arguments and its result."""

_FOLDER = Path(__file__).parent


class LeanBackward(TorchFunctionMode):
    """Mode in which the operations of `_RULES` save less on plain tensors.

    Args:
        observer: Called with every function that runs in the mode.

    It is inactive inside activation checkpointing of the model's own. That recomputes operations in
    the backward pass, when this mode is off, and has to find the same ones.
    `medcam.engine.memory.checkpointing` enters the mode for its recomputations, so they save less,
    too.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        super().__init__()
        self._observer = observer

    def __enter__(self) -> Any:
        """Enter the mode; checkpointing that is active already does not disable it."""
        self._outer_checkpointing = _active_checkpointing()
        return super().__enter__()  # type: ignore[no-untyped-call]  # PyTorch's has no annotations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation in its lean form if it has one that supports the arguments."""
        kwargs = kwargs or {}
        result = self._apply(func, args, kwargs)
        if func in INSTANCE_NORMS:
            return with_contiguous_gradient(result)
        if self._observer is not None:
            self._observer(func, args, kwargs, result)
        return result

    def _apply(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation in its lean form if there is one."""
        rule = _RULES.get(func)
        if (
            rule is not None
            and args
            and _fits(args[0])
            and _active_checkpointing() == self._outer_checkpointing
        ):
            result = rule(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)


class DeferredLeanBackward:
    """Context manager that enters `LeanBackward` when the graph starts, at the hooked layer.

    Operations before that have no overhead. Use it around the forward pass, and call `begin` from
    a hook. If the model has entered a mode of its own by then (``with torch.device(...)``),
    `LeanBackward` is not entered, because modes have to be left in the reverse order.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self._mode: LeanBackward | None = None
        self._observer = observer

    def __enter__(self) -> None:
        """Store the number of active modes."""
        self._depth = torch._C._len_torch_function_stack()
        self._outer_checkpointing = _active_checkpointing()

    def __exit__(self, *error: object) -> None:
        """Leave the mode if it was entered."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # as above

    def begin(self) -> None:
        """Enter the mode, unless it is entered already."""
        if self._mode is None and torch._C._len_torch_function_stack() == self._depth:
            self._mode = LeanBackward(self._observer)
            self._mode.__enter__()
            self._mode._outer_checkpointing = self._outer_checkpointing


def caused(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, comes from the backward pass of a lean operation."""
    if is_out_of_memory(error):
        return False
    for link in chain_of(error):
        if type(link).__name__ == "CheckpointError":
            return True
        trace = link.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_name == "backward" and Path(code.co_filename).parent == _FOLDER:
                return True
            trace = trace.tb_next
    return False


def _fits(x: Any) -> bool:
    """Return whether an operation on this input has a lean form."""
    return type(x) is Tensor and x.requires_grad and x.is_contiguous() and torch.is_grad_enabled()


def _active_checkpointing() -> Any:
    """Return what identifies the active activation checkpointing; None without one."""
    if _top_hooks is None:
        return _checkpointing_frame()
    hooks = _top_hooks(True)
    if hooks is None or not getattr(hooks[0], "__qualname__", "").startswith("_checkpoint_hook"):
        return None
    return hooks[0]


def _checkpointing_frame() -> int | None:
    """Return the id of the innermost call of ``torch.utils.checkpoint.checkpoint`` on the stack.

    PyTorch 2.4 cannot be asked for the active saved-tensor hooks.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "checkpoint" and code.co_filename.endswith(_CHECKPOINT_FILE):
            return id(frame)
        frame = frame.f_back
    return None


_CHECKPOINT_FILE = str(Path("torch", "utils", "checkpoint.py"))
_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


_RULES: dict[Any, Rule] = {
    torch.conv2d: convolution(2, transposed=False),
    torch.conv3d: convolution(3, transposed=False),
    torch.conv_transpose2d: convolution(2, transposed=True),
    torch.conv_transpose3d: convolution(3, transposed=True),
    Tensor.__deepcopy__: deepcopy,
    F.batch_norm: batch_norm,
    F.instance_norm: instance_norm,
    F.relu: relu,
    torch.relu: relu,
    Tensor.relu: relu,
    torch.relu_: lambda x: relu(x, True),
    Tensor.relu_: lambda x: relu(x, True),
    F.leaky_relu: leaky_relu,
    torch.max_pool2d: max_pool(2),
    torch.max_pool3d: max_pool(3),
    F.max_pool2d: max_pool(2),
    F.max_pool3d: max_pool(3),
    F.avg_pool2d: avg_pool(2),
    F.avg_pool3d: avg_pool(3),
}
