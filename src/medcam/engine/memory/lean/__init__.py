"""Operations that keep for the backward pass only what gradients of *activations* need.

PyTorch keeps the input of a convolution, an evaluated batch norm and a pooling, although with
frozen parameters only its shape is needed; and a rectifier keeps its result in full, although one
bit a value is enough. The functions here call the same kernels, forwards and backwards, so that
predictions and gradients are the same bit for bit (but for a NaN in a LeakyReLU, of which no map
is made anyway); the input is replaced by a placeholder of its
shape. Whatever they do not cover (parameters that require gradients, tensor subclasses, other
memory layouts, padding by name) runs as PyTorch has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medcam.engine.memory.lean.common import Rule
from medcam.engine.memory.lean.convolutions import convolution
from medcam.engine.memory.lean.normalisations import batch_norm, instance_norm
from medcam.engine.memory.lean.pooling import avg_pool, max_pool
from medcam.engine.memory.lean.rectifiers import leaky_relu, relu

__all__ = ["FromTheLayerOn", "LeanBackward", "caused"]

_FOLDER = Path(__file__).parent


class LeanBackward(TorchFunctionMode):
    """Within it, covered operations on plain tensors save less.

    Where the model itself checkpoints activations they do not: that runs the operations again in
    the backward pass, after this mode, and has to meet the same ones. `medcam.engine.memory.checkpointing` enters
    the mode within what is run again, and so keeps little there too.
    """

    def __enter__(self) -> Any:
        """Remembers the checkpointing that is under way already."""
        self._around = _checkpointing()
        return super().__enter__()  # type: ignore[no-untyped-call]  # PyTorch's has no annotations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation in its lean form if it has one and its arguments fit."""
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        if rule is not None and args and _fits(args[0]) and _checkpointing() is self._around:
            result = rule(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)


class FromTheLayerOn:
    """The same, but from the moment on at which the graph begins: what runs before costs nothing.

    Use it as a context manager around the forward pass, and call `begin` from a hook. A model that
    has opened a mode of its own by then (``with torch.device(...)``) goes on with PyTorch's
    operations: modes have to be closed in order.
    """

    def __init__(self) -> None:
        self._mode: LeanBackward | None = None

    def __enter__(self) -> None:
        """Remembers where the modes stood."""
        self._depth = torch._C._len_torch_function_stack()
        self._around = _checkpointing()

    def __exit__(self, *error: object) -> None:
        """Leaves the mode, if it was entered."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # as above

    def begin(self) -> None:
        """Enters the mode, once."""
        if self._mode is None and torch._C._len_torch_function_stack() == self._depth:
            self._mode = LeanBackward()
            self._mode.__enter__()
            self._mode._around = self._around


def caused(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, was raised in a backward pass of one of these."""
    while error is not None:
        if type(error).__name__ == "CheckpointError":
            return True
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_name == "backward" and Path(code.co_filename).parent == _FOLDER:
                return not isinstance(error, torch.cuda.OutOfMemoryError)
            trace = trace.tb_next
        error = error.__cause__
    return False


def _fits(x: Any) -> bool:
    return type(x) is Tensor and x.requires_grad and x.is_contiguous() and torch.is_grad_enabled()


def _checkpointing() -> Any:
    """What activation checkpointing keeps tensors with, if it is under way; None otherwise."""
    hooks = _top_hooks(True)
    if hooks is None or not getattr(hooks[0], "__qualname__", "").startswith("_checkpoint_hook"):
        return None
    return hooks[0]


def _no_hooks(_: bool) -> None:
    """Where this PyTorch does not tell."""


_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", _no_hooks)


_RULES: dict[Any, Rule] = {
    torch.conv2d: convolution(2, transposed=False),
    torch.conv3d: convolution(3, transposed=False),
    torch.conv_transpose2d: convolution(2, transposed=True),
    torch.conv_transpose3d: convolution(3, transposed=True),
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
