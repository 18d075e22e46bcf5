"""Whether values steer what a model does next: then its way may differ from call to call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from medcam.engine.model.placement.memory import has_memory

_READS_NUMBERS = {
    "_local_scalar_dense", "is_nonzero", "argmax", "argmin", "nonzero", "topk", "masked_select",
    "multinomial", "unique_dim", "_unique2", "bincount",
}  # fmt: skip
"""Operations of PyTorch, without their namespace, whose result depends on values as numbers."""

_INDICES = {
    "index": "indices", "_unsafe_index": "indices", "index_select": "index", "gather": "index",
    "index_put": "indices", "index_put_": "indices", "index_add": "index", "index_copy": "index",
}  # fmt: skip
"""Operations that take a part of a tensor, and the argument that says which part."""

_READS_VALUES = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__}


class Steering:
    """Tensors whose values differ from call to call, and whether any of them steers the model.

    These are the images, the other inputs, random numbers, and all that is computed from them;
    parameters, buffers and constants are not.

    Args:
        inputs: The tensors among the inputs.

    Attributes:
        follows_data: Whether such values were read as numbers or taken as indices.
    """

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        self.follows_data = False
        self._varying: dict[int, StorageWeakRef] = {}
        self._random_state = _random_state()
        for tensor in inputs:
            self._add(tensor)

    def read(self, tensor: Tensor) -> None:
        """Note that the values of a tensor are read by other code than PyTorch's."""
        self.follows_data |= self._varies(tensor)

    def note(self, func: Any, arguments: Mapping[str, Any], result: Any) -> None:
        """Note an operation.

        Args:
            func: The operation.
            arguments: Its arguments by name.
            result: What it returned.
        """
        name = func._schema.name.removeprefix("aten::")
        varies = any(map(self._varies, _tensors(arguments.values())))
        if varies and name in _READS_NUMBERS:
            self.follows_data = True
        if name in _INDICES and any(map(self._varies, _tensors([arguments[_INDICES[name]]]))):
            self.follows_data = True
        if varies or torch.Tag.nondeterministic_seeded in func.tags:
            for tensor in _tensors([result]):
                self._add(tensor)

    def finish(self) -> None:
        """Note the end of the forward pass: NumPy's random numbers may steer, too."""
        self.follows_data |= self._random_state != _random_state()

    def _varies(self, tensor: Tensor) -> bool:
        """Return whether a tensor's values may differ in another call."""
        address = _address(tensor)
        reference = self._varying.get(address)
        if reference is not None and reference.expired():  # type: ignore[no-untyped-call]  # PyTorch's
            del self._varying[address]
            return False
        return reference is not None

    def _add(self, tensor: Tensor) -> None:
        """Note that a tensor's values may differ in another call."""
        address = _address(tensor)
        if address:
            memory = tensor.untyped_storage()
            self._varying[address] = StorageWeakRef(memory)  # type: ignore[no-untyped-call]  # PyTorch's


def _address(tensor: Tensor) -> int:
    """Return the address of a tensor's memory; 0 if it has none of its own."""
    return int(tensor.untyped_storage()._cdata) if has_memory(tensor) else 0


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among values, those in lists and tuples included."""
    return [
        item
        for value in values
        for item in (value if isinstance(value, (list, tuple)) else (value,))
        if isinstance(item, Tensor)
    ]


def _random_state() -> tuple[object, ...]:
    """Return the state of NumPy's random numbers.

    That of Python's `random` tells nothing: type checkers of annotations draw from it.
    """
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002  # which the model may use
    values = [*state["state"].values(), state.get("has_gauss")]
    return tuple(v.tobytes() if isinstance(v, np.ndarray) else v for v in values)


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
