"""Operations that read values of a tensor as numbers, which may steer what a model does next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

READS_NUMBERS = {
    "_local_scalar_dense", "is_nonzero", "argmax", "argmin", "nonzero", "topk", "masked_select",
    "multinomial", "unique_dim", "_unique2", "bincount",
}  # fmt: skip
"""Operations of PyTorch, without their namespace."""

_READS_VALUES = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__}


class ReadingMode(TorchFunctionMode):
    """Mode that sees what no operation of PyTorch shows: values read into NumPy or into lists.

    Args:
        read: Called with each tensor whose values are read.
    """

    def __init__(self, read: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._read = read

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and tell which tensor it reads."""
        if func in _READS_VALUES:
            self._read(args[0])
        return func(*args, **(kwargs or {}))
