"""Tensors that a model stores on itself during a call: they keep no graph, as under no_grad."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

_OF_MODULE = frozenset(vars(nn.Module())) - {"_buffers"}
"""The attributes that every module has; no state of a model is in them, but in its buffers."""

_MAX_DEPTH = 5
_SMALL = 16  # parts of a container that are looked at one by one
_PLAIN = frozenset((int, float, bool, str, bytes, type(None), type))


def stored_graphs(modules: Sequence[nn.Module]) -> list[Tensor]:
    """Return the tensors with a graph that modules hold before the call: these keep theirs."""
    graphs: list[Tensor] = []
    _visit(modules, _Visit(graphs=graphs))
    return graphs


def detach_stored_tensors(modules: Sequence[nn.Module], kept: Sequence[Tensor] = ()) -> None:
    """Detach the tensors that modules stored during the call, also in lists, dicts and objects.

    Args:
        modules: All modules of the model.
        kept: Tensors of `stored_graphs`, which keep their graph.
    """
    _visit(modules, _Visit(kept=frozenset(map(id, kept))))


@dataclass
class _Visit:
    """One walk through what modules hold.

    Attributes:
        kept: The ids of tensors that keep their graph.
        graphs: Receives the tensors with a graph, which are left as they are then.
        seen: The ids of the containers that were walked through.
    """

    kept: frozenset[int] = frozenset()
    graphs: list[Tensor] | None = None
    seen: set[int] = field(default_factory=set)

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return a tensor without its graph."""
        if tensor.grad_fn is None or id(tensor) in self.kept:
            return tensor
        if self.graphs is not None:
            self.graphs.append(tensor)
            return tensor
        return tensor.detach()


def _visit(modules: Sequence[nn.Module], visit: _Visit) -> None:
    """Walk through the attributes of modules."""
    for module in modules:
        cls: Any = type(module)
        if _is_pytorchs(cls):
            _detach_in(module._buffers, visit, 0)
            continue
        attributes = vars(module)
        for name in [name for name in attributes if name not in _OF_MODULE]:
            value = attributes[name]
            if type(value) in _PLAIN:
                continue
            detached = _detached(value, visit, 0)
            if detached is not value:
                attributes[name] = detached


def _detached(value: Any, visit: _Visit, depth: int) -> Any:
    """Return a value without graphs: the same object, changed inside, where that is possible."""
    if isinstance(value, Tensor):
        return visit(value)
    if type(value) in _PLAIN or depth > _MAX_DEPTH or isinstance(value, nn.Module):
        return value
    if isinstance(value, tuple):
        parts = [_detached(part, visit, depth + 1) for part in value]
        if all(part is own for part, own in zip(parts, value, strict=True)):
            return value
        return tuple.__new__(type(value), parts)
    if id(value) in visit.seen:
        return value
    visit.seen.add(id(value))
    _detach_in(value, visit, depth)
    return value


def _detach_in(value: Any, visit: _Visit, depth: int) -> None:
    """Detach the tensors inside a list, a dict, a set or an object of the user's own class."""
    if isinstance(value, (dict, list, deque, set)) and _is_data(value):
        return
    if isinstance(value, dict):
        _replace(value, list(value.items()), visit, depth)
    elif isinstance(value, (list, deque)):
        _replace(value, list(enumerate(value)), visit, depth)
    elif isinstance(value, set):
        parts = [_detached(part, visit, depth + 1) for part in value]
        if not all(part in value for part in parts):
            value.clear()
            value.update(parts)
    elif not callable(value) and isinstance(getattr(value, "__dict__", None), dict):
        _replace(vars(value), list(vars(value).items()), visit, depth)


def _is_data(value: Any) -> bool:
    """Return whether a large container holds data, by its first parts, and no state."""
    if len(value) <= _SMALL:
        return False
    parts = value.values() if isinstance(value, dict) else value
    return all(type(part) in _PLAIN for part in itertools.islice(parts, _SMALL))


def _replace(holder: Any, items: Iterable[tuple[Any, Any]], visit: _Visit, depth: int) -> None:
    """Put the parts of a list or a dict back without their graphs."""
    for key, part in items:
        detached = _detached(part, visit, depth + 1)
        if detached is not part:
            holder[key] = detached


@functools.cache
def _is_pytorchs(cls: type) -> bool:
    """Return whether a class of modules is PyTorch's own; these store tensors as buffers only."""
    return cls.__module__.startswith("torch.nn.")
