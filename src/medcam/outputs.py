"""Which tensor of a model's output is explained, whatever that output is made of."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from medcam.errors import InputError, InputTypeError, warn

Selector = None | int | str | Callable[[Any], Any]
"""Which part of an output: automatically, by index, by key or attribute, or by a callable."""

_log = logging.getLogger("medcam")


def children(value: Any) -> Iterator[tuple[Any, Any]]:
    """The parts of a tuple, list, mapping, dataclass or plain object, with their keys."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name, None)
    elif not isinstance(value, type) and not callable(value):
        for name, part in getattr(value, "__dict__", {}).items():
            if isinstance(part, (Tensor, tuple, list, Mapping)):  # no wandering through objects
                yield name, part


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside a nested value, with the path that leads to it."""
    if isinstance(value, Tensor):
        yield path, value
        return
    for key, part in children(value):
        yield from tensors(part, f"{path}[{key!r}]")


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same value with its tensors changed; what holds no changed tensor is kept as it is."""
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


def select(output: Any, selector: Selector, *, batch: int, space: Sequence[int]) -> Tensor:
    """The tensor of a model's output that is explained.

    Automatically: a tensor is itself; else ``.logits``; else ``["out"]``; else the only tensor
    with the input's spatial shape; else the finest of a deep-supervision list; else the first.

    Args:
        output: What the model returned: a tensor, or a nest of tuples, lists, mappings and
            dataclasses.
        selector: An index, a key or attribute name, a callable, or None for the rule above.
        batch: The input's batch size.
        space: The input's spatial shape.

    Raises:
        InputError: The selector does not fit.
        InputTypeError: No tensor is found.
    """
    chosen, path = (output, "") if selector is None else _picked(output, selector)
    if chosen is None and selector is not None:
        raise InputTypeError(f"output={selector!r} picked None from {describe(output)}.")
    if not isinstance(chosen, Tensor):
        path, chosen = _automatic(chosen, path, batch, tuple(space))
        _log.info("output explained: output%s, of shape %s", path, list(chosen.shape))
    if not chosen.is_floating_point():
        raise InputError(
            f"output{path} is a tensor of {chosen.dtype}, which has no gradient: choose the "
            "logits with output=, e.g. output='logits' or output=0."
        )
    if len(chosen.shape) == 0 or chosen.shape[0] != batch:
        raise InputError(
            f"output{path} has shape {list(chosen.shape)}, but the input holds {batch} sample(s): "
            "its first axis has to be the batch. Choose another tensor with output=."
        )
    if chosen.ndim > len(space) + 2:
        raise InputError(
            f"output{path} has shape {list(chosen.shape)}, with more axes than the input: a stack "
            "of heads? Choose one, e.g. output=lambda out: out[:, 0]."
        )
    if chosen.ndim == len(space) + 1 and tuple(chosen.shape[1:]) == tuple(space):
        return chosen[:, None]
    return chosen


def _picked(output: Any, selector: int | str | Callable[[Any], Any]) -> tuple[Any, str]:
    if callable(selector):
        return selector(output), " (by a callable)"
    try:
        if isinstance(output, Mapping) and selector in output:
            return output[selector], f"[{selector!r}]"
        if isinstance(selector, str):
            return getattr(output, selector), f".{selector}"
        return list(dict(children(output)).values())[selector], f"[{selector!r}]"
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise InputError(
            f"output={selector!r} is not in what the model returned: {describe(output)}."
        ) from error


def _automatic(output: Any, path: str, batch: int, space: tuple[int, ...]) -> tuple[str, Tensor]:
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return f"{path}.logits", logits
    if isinstance(output, Mapping):
        for key in ("logits", "out"):
            if isinstance(output.get(key), Tensor):
                return f"{path}[{key!r}]", output[key]
    found = [
        (f"{path}{where}", tensor)
        for where, tensor in tensors(output)
        if tensor.is_floating_point() and tensor.ndim and tensor.shape[0] == batch
    ]
    if not found:
        raise InputTypeError(
            f"The model returned {describe(output)}, in which no floating-point tensor has the "
            f"batch size {batch} as its first axis. Choose what to explain with output=."
        )
    full = [item for item in found if tuple(item[1].shape[2:]) == space]
    if len(full) == 1:
        return full[0]
    heads = full or [item for item in found if item[1].ndim == len(space) + 2]
    if heads and len(heads) == len(found) and len({item[1].shape[1] for item in heads}) == 1:
        finest = max(heads, key=lambda item: item[1].shape[2:].numel())
        equal = [item for item in heads if item[1].shape == finest[1].shape]
        if len(equal) > 1:
            warn(
                f"The model returns {len(equal)} tensors of the same shape "
                f"{list(finest[1].shape)}, and which is the final one cannot be seen: the first is "
                "explained. Choose with output=, e.g. output=-1 for the last."
            )
        return finest
    return found[0]


def describe(output: Any) -> str:
    """What a model returned, in a few words, for error messages."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {list(output.shape)}"
    parts = [f"{where} {list(tensor.shape)}" for where, tensor in tensors(output)]
    return f"{type(output).__name__} with {', '.join(parts[:6]) or 'no tensors'}"
