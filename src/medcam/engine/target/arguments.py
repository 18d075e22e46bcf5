"""Validate the arguments of targets: classes, channels, regions and functions."""

from __future__ import annotations

import operator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from medcam.errors import MaskError, TargetError


def checked_label(label: int, count: int) -> int:
    """Return a class of an output with ``count`` classes.

    Raises:
        TargetError: It is not a whole number, or there is no such class.
    """
    if not 0 <= _integer(label, "class") < count:
        raise TargetError(
            f"Class {label} does not exist: the output has the classes 0 to {count - 1}."
        )
    return int(label)


def checked_channel(channel: int, count: int) -> int:
    """Return a channel of an output with ``count`` channels.

    Raises:
        TargetError: It is not a whole number, or there is no such channel.
    """
    if not 0 <= _integer(channel, "channel") < count:
        raise TargetError(
            f"Channel {channel} does not exist: the output has {count}, numbered from 0."
        )
    return int(channel)


def checked_region(mask: Tensor, logits: Tensor) -> Bool[Tensor, "batch *space"]:
    """Return a region as a boolean mask ``[batch, *space]`` on the device of the logits.

    Raises:
        MaskError: The mask has another shape than the output, or values other than 0 and 1.
    """
    space, batch = tuple(logits.shape[2:]), len(logits)
    mask = torch.as_tensor(mask, device=logits.device)
    original_shape = tuple(mask.shape)
    if mask.ndim == len(space) + 2 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim == len(space):
        mask = mask.expand(batch, *mask.shape)
    if not space or tuple(mask.shape) != (batch, *space):
        raise MaskError(
            f"The region has shape {original_shape}; the output needs {space} or {(batch, *space)}."
        )
    if mask.dtype != torch.bool:
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise MaskError("The region holds values other than 0 and 1: pass e.g. `mask == 2`.")
        mask = mask.bool()
    return mask


def name_of(function: Any) -> str:
    """Return the name of a user's function; for a lambda, also its file and line.

    Example:
        >>> name_of(max), name_of(partial(sorted, key=len))
        ('max', 'sorted')
    """
    while isinstance(function, partial):
        function = function.func
    name = str(getattr(function, "__name__", type(function).__name__))
    code = getattr(function, "__code__", None)
    if name == "<lambda>" and code is not None:
        return f"a lambda ({Path(code.co_filename).name}, line {code.co_firstlineno})"
    return name


def describe_value(value: object) -> str:
    """Return a short description of a value, for error messages."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {list(value.shape)}"
    return f"{type(value).__name__} {value!r:.60}"


def _integer(value: Any, kind: str) -> int:
    """Return a whole number.

    Args:
        value: The number.
        kind: What it stands for in the error message, "class" or "channel".

    Raises:
        TargetError: It is a boolean or not an integer.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TargetError(f"A {kind} is a whole number from 0 on, not {describe_value(value)}.")
    return operator.index(value)
