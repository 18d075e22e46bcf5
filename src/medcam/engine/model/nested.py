"""Tensors inside nested values, as models take and return them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxtyping import Shaped
from torch import Tensor


def children(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the parts of a tuple, list, mapping, dataclass or plain object, with their keys."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name, None)
    elif not isinstance(value, type) and not callable(value):
        for name, part in getattr(value, "__dict__", {}).items():
            if isinstance(part, (Tensor, tuple, list, Mapping)):  # other values are not searched
                yield name, part


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor inside a nested value, with its path, e.g. ``"['out'][0]"``."""
    if isinstance(value, Tensor):
        yield path, value
        return
    for key, part in children(value):
        yield from tensors(part, f"{path}[{key!r}]")


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the value with ``change`` applied to its tensors; unchanged parts are not copied."""
    if isinstance(value, Tensor):
        return change(value)
    changed = {}
    for key, part in children(value):
        new = map_tensors(part, change)
        if new is not part:
            changed[key] = new
    if not changed:
        return value
    if isinstance(value, (tuple, list)):
        parts = [changed.get(index, part) for index, part in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    rebuilt = copy.copy(value)
    for key, new in changed.items():
        if isinstance(value, Mapping):
            rebuilt[key] = new
        if not isinstance(value, Mapping) or getattr(value, str(key), None) is value[key]:
            object.__setattr__(rebuilt, key, new)
    return rebuilt


def describe(output: Any) -> str:
    """Return a short description of a nested value, for error messages."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {list(output.shape)}"
    parts = [f"{path} {list(tensor.shape)}" for path, tensor in tensors(output)]
    return f"{type(output).__name__} with {', '.join(parts[:6]) or 'no tensors'}"


def without_subclass(tensor: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
    """Return the tensor without its subclass: a MetaTensor's affine is wrong for its features."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)
