"""How a layer's output lies on the image: channels first, channels last, or a row of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from jaxtyping import Shaped
from torch import Tensor, nn

from medcam.engine.model.nested import tensors

_PREFIXES = (0, 1, 2, 5)  # no class token; a class token; and distillation; and four registers


@dataclass(frozen=True)
class Layout:
    """How to read a tensor as ``[batch, channels, *space]``.

    Attributes:
        kind: "channels first", "channels last" or "tokens".
        space: The spatial extents of the map.
        channels: The number of channels.
        prefix: How many leading tokens (class token, registers) belong to no place.
    """

    kind: str
    space: tuple[int, ...]
    channels: int
    prefix: int = 0

    def grid(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "batch channels *space"]:
        """The tensor as ``[batch, channels, *space]``; a view, where it can be one."""
        if self.kind == "channels first":
            return values
        if self.kind == "channels last":
            return values.movedim(-1, 1)
        tokens = values[:, self.prefix :].transpose(1, 2)
        return tokens.reshape(len(values), self.channels, *self.space)


def read(
    shape: Sequence[int],
    batch: int,
    space: Sequence[int],
    *,
    last: Callable[[], bool | None] = lambda: None,
) -> Layout | None:
    """How a tensor of this shape lies on an input with these spatial extents; None if it does not.

    ``[batch, channels, *space]`` is the rule. Channels last is believed where only that reading
    shrinks every axis by one factor, and the other is impossible or ``last`` says so; ``[batch,
    tokens, channels]`` where the tokens, without up to five leading ones, make a grid that divides
    every axis of the input by one patch size.

    >>> read((2, 768, 7, 7), 2, (224, 224)).space, read((2, 7, 7, 768), 2, (224, 224)).space
    ((7, 7), (7, 7))
    >>> read((2, 197, 768), 2, (224, 224))
    Layout(kind='tokens', space=(14, 14), channels=768, prefix=1)
    """
    shape, space = tuple(shape), tuple(space)
    if not shape or shape[0] != batch or 0 in shape:
        return None
    if len(shape) == len(space) + 2:
        first = shape[2:]
        inner = shape[1:-1]
        if not _isotropic(first, space) and _isotropic(inner, space) and max(inner) > 1:
            possible = all(large % small == 0 for small, large in zip(first, space, strict=True))
            believed = last()
            if believed or (believed is None and not possible):
                return Layout("channels last", inner, shape[-1])
        return Layout("channels first", first, shape[1])
    if len(shape) == 3:
        return _tokens(shape[1], shape[2], space)
    return None


def _isotropic(space: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether one factor (up to rounding at the border) shrinks every axis."""
    factors = [large / small for small, large in zip(space, whole, strict=True)]
    return min(factors) >= 1 and max(factors) / min(factors) < 1.15


def _tokens(count: int, channels: int, space: tuple[int, ...]) -> Layout | None:
    for prefix in _PREFIXES:
        if count - prefix < 2:
            continue
        patch = round((prod(space) / (count - prefix)) ** (1 / len(space)))
        for pad in (0, max(patch, 1) - 1):  # the border is cut off, or padded
            grid = tuple((extent + pad) // max(patch, 1) for extent in space)
            if patch >= 1 and prod(grid) == count - prefix:
                return Layout("tokens", grid, channels, prefix)
    return None


def _channels_last(module: nn.Module) -> bool | None:
    """Whether a module's last layer with weights puts channels last; None if it has none."""
    for part in reversed(list(module.modules())):
        if isinstance(
            part, (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
        ):
            return False
        if isinstance(part, (nn.Linear, nn.LayerNorm)):
            return True
    return None


def main_tensor(
    output: Any, batch: int, space: Sequence[int], module: nn.Module
) -> tuple[Tensor, Layout] | None:
    """The tensor of a layer's output that a map can be made of: the first that lies on the image.

    Blocks that return tuples (hidden state, attention weights) or dicts are looked into.
    """
    for _, tensor in tensors(output):
        if not tensor.is_floating_point():
            continue
        layout = read(tensor.shape, batch, space, last=partial(_channels_last, module))
        if layout is not None:
            return tensor, layout
    return None
