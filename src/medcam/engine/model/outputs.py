"""Select the tensor of a model's output that is explained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from medcam.engine.model.nested import children, describe, tensors
from medcam.errors import InputError, InputTypeError, warn

Selector = None | int | str | Callable[[Any], Any]
"""Which part of an output: automatically, by index, by key or attribute, or by a callable."""

_log = logging.getLogger("medcam")


def select(output: Any, selector: Selector, *, batch: int, space: Sequence[int]) -> Tensor:
    """Return the tensor of a model's output that is explained.

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
