"""A layer without some of its channels, for one run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from medcam.engine.model.nested import map_tensors, tensors
from medcam.engine.model.undo import ForwardHooks
from medcam.errors import NoMapError


@contextmanager
def without_channels(
    module: nn.Module,
    layer: str,
    channels: Int[Tensor, " images"],
    kind: str,
    shape: tuple[int, ...],
) -> Iterator[None]:
    """Run with one channel of a layer's output set to zero in each image of the batch.

    Args:
        module: The layer.
        layer: Its name.
        channels: The channel that each image is run without; -1 for none.
        kind: How its output is laid out, as `medcam.engine.model.layouts.Layout.kind`.
        shape: The shape of its output, without the axis of samples.

    Raises:
        NoMapError: Which axis of the output holds the channels is not known, or the layer ran
            several times.
    """
    thread, runs = threading.get_ident(), 0
    if kind not in ("channels first", "channels last", "tokens"):
        raise NoMapError(
            f"The channels of layer {layer!r} cannot be switched off, as its output is {kind}: "
            "choose a layer whose output is [batch, channels, *space]."
        )
    axis = 1 if kind == "channels first" else len(shape)
    wanted = (len(channels), *shape)

    def silenced(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape) != wanted:
            return tensor
        rest = tensor.movedim(axis, 1).clone()
        images = torch.arange(len(channels), device=tensor.device)
        numbers = channels.to(tensor.device)
        rest[images[numbers >= 0], numbers[numbers >= 0]] = 0
        return rest.movedim(1, axis)

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        nonlocal runs
        if threading.get_ident() != thread:
            return None  # another thread predicts with the same model
        runs += 1
        fitting = [tensor for _, tensor in tensors(output) if tuple(tensor.shape) == wanted]
        if runs > 1 or len(fitting) != 1:
            reason = "ran several times" if runs > 1 else f"returned {len(fitting)} such tensors"
            raise NoMapError(
                f"The channels of layer {layer!r} cannot be switched off, as it {reason} for one "
                "image: choose another layer."
            )
        return map_tensors(output, silenced)

    with ForwardHooks([(module, hook)]):
        yield
