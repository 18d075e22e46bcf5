"""Tensors that a model stores on itself during a call: they keep no graph, as under no_grad."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

_OF_MODULE = frozenset(vars(nn.Module())) - {"_buffers"}
"""The attributes that every module has; no state of a model is in them, but in its buffers."""

_MAX_DEPTH = 5
_PLAIN = frozenset((int, float, bool, str, bytes, type(None), type))


def detach_stored_tensors(modules: Sequence[nn.Module]) -> None:
    """Detach the tensors that modules stored during the call, also in lists, dicts and objects."""
    visited: set[int] = set()
    for module in modules:
        cls: Any = type(module)
        if _is_pytorchs(cls):
            _detach_in(module._buffers, visited, 0)
            continue
        attributes = vars(module)
        for name in [name for name in attributes if name not in _OF_MODULE]:
            value = attributes[name]
            if type(value) in _PLAIN:
                continue
            detached = _detached(value, visited, 0)
            if detached is not value:
                attributes[name] = detached


def _detached(value: Any, visited: set[int], depth: int) -> Any:
    """Return a value without graphs: the same object, changed inside, where that is possible."""
    if isinstance(value, Tensor):
        return value.detach() if value.grad_fn is not None else value
    if type(value) in _PLAIN or depth > _MAX_DEPTH or isinstance(value, nn.Module):
        return value
    if isinstance(value, tuple):
        parts = [_detached(part, visited, depth + 1) for part in value]
        if all(part is own for part, own in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if id(value) in visited:
        return value
    visited.add(id(value))
    _detach_in(value, visited, depth)
    return value


def _detach_in(value: Any, visited: set[int], depth: int) -> None:
    """Detach the tensors inside a list, a dict, a set or an object of the user's own class."""
    if isinstance(value, dict):
        _replace(value, list(value.items()), visited, depth)
    elif isinstance(value, (list, deque)):
        _replace(value, list(enumerate(value)), visited, depth)
    elif isinstance(value, set):
        parts = [_detached(part, visited, depth + 1) for part in value]
        if not all(part in value for part in parts):
            value.clear()
            value.update(parts)
    elif not callable(value) and isinstance(getattr(value, "__dict__", None), dict):
        _replace(vars(value), list(vars(value).items()), visited, depth)


def _replace(holder: Any, items: Iterable[tuple[Any, Any]], visited: set[int], depth: int) -> None:
    """Put the parts of a list or a dict back without their graphs."""
    for key, part in items:
        detached = _detached(part, visited, depth + 1)
        if detached is not part:
            holder[key] = detached


@functools.cache
def _is_pytorchs(cls: type) -> bool:
    """Return whether a class of modules is PyTorch's own; these store tensors as buffers only."""
    return cls.__module__.startswith("torch.nn.")
