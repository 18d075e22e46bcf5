"""What tells two calls of a model apart: the shapes, and the settings that steer its way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medcam.engine.model.nested import tensors

_SMALL = 256
"""The largest number of values of a buffer that may hold a position, an order or a flag."""

_SIMPLE = frozenset({int, float, str, bool, type(None), torch.Size, torch.dtype})


def signature_of(modules: Iterable[nn.Module], inputs: Any) -> object:
    """Return what tells calls apart in which a model may take another way.

    These are the paths and shapes of all tensors among the inputs, the other inputs, the simple
    attributes of all modules (strides, crops, sizes), and whether small buffers were written.

    Args:
        modules: All modules of the model.
        inputs: Its inputs.
    """
    settings: list[object] = []
    for module in modules:
        settings.append(type(module))
        for value in vars(module).values():
            kind = type(value)
            if kind in _SIMPLE:
                settings.append(value)
            elif kind in (tuple, list) and _SIMPLE.issuperset(map(type, value)):
                settings.append(tuple(value))
            elif kind is dict and value and _SIMPLE.issuperset(map(type, value.values())):
                settings.append(tuple(value.items()))
        if module._buffers and not isinstance(module, _BatchNorm):  # whose statistics steer nothing
            settings += map(_state_of, module._buffers.values())
    shapes = tuple((path, tuple(tensor.shape)) for path, tensor in tensors(inputs))
    return hash(tuple(settings)), shapes, repr(_without_tensors(inputs))


def _state_of(buffer: Tensor | None) -> object:
    """Return what changes if a small buffer is written or replaced, without reading its values."""
    if buffer is None or buffer.numel() > _SMALL or buffer.is_inference():
        return None
    return id(buffer), buffer._version


def _without_tensors(value: Any) -> Any:
    """Return the simple values inside nested inputs."""
    if isinstance(value, Mapping):
        return [(str(key), _without_tensors(part)) for key, part in value.items()]
    if isinstance(value, (tuple, list)):
        return [_without_tensors(part) for part in value]
    return value if type(value) in _SIMPLE else type(value).__name__
