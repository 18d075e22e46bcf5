"""Layout of a layer's output on the image: channels first, channels last, or tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from jaxtyping import Shaped
from torch import Tensor, nn

from medcam.engine.model.nested import tensors

_PREFIXES = (0, 1, 2, 5)
"""Numbers of tokens before the patches: none; the class token; class and distillation token; class
token and four registers."""

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
"""Layers that put channels first."""


@dataclass(frozen=True)
class Layout:
    """How to read a tensor as ``[batch, channels, *space]``.

    Attributes:
        kind: "channels first", "channels last" or "tokens".
        space: The spatial extents of the map.
        channels: The number of channels.
        prefix: The number of tokens before the patches (class token, registers).
    """

    kind: str
    space: tuple[int, ...]
    channels: int
    prefix: int = 0

    def channels_first(
        self, values: Shaped[Tensor, "..."]
    ) -> Shaped[Tensor, "batch channels *space"]:
        """Return the tensor as ``[batch, channels, *space]``; a view where possible."""
        if self.kind == "channels first":
            return values
        if self.kind == "channels last":
            return values.movedim(-1, 1)
        tokens = values[:, self.prefix :].transpose(1, 2)
        return tokens.reshape(len(values), self.channels, *self.space)


def layout_of(
    shape: Sequence[int],
    batch: int,
    space: Sequence[int],
    *,
    is_channels_last: Callable[[], bool | None] = lambda: None,
) -> Layout | None:
    """Return the layout of a tensor on the input, from its shape; None if it does not lie on it.

    The default is ``[batch, channels, *space]``. Channels last is inferred only if every axis then
    shrinks by one factor, which it does not with channels first, and if either channels first is
    impossible or ``is_channels_last`` returns True. ``[batch, tokens, channels]`` is inferred if
    the tokens, apart from those before the patches, form a grid that divides every axis of the
    input by one patch size. On a signal, only ``is_channels_last`` can tell the axes apart.

    Args:
        shape: The shape of the tensor.
        batch: The batch size of the input.
        space: The spatial extents of the input.
        is_channels_last: Called if the shape alone is ambiguous: whether the layer puts channels
            last, or None if that is unknown.

    Example:
        >>> layout_of((2, 768, 7, 7), 2, (224, 224)).space
        (7, 7)
        >>> layout_of((2, 7, 7, 768), 2, (224, 224)).space
        (7, 7)
        >>> layout_of((2, 197, 768), 2, (224, 224))
        Layout(kind='tokens', space=(14, 14), channels=768, prefix=1)
    """
    shape, space = tuple(shape), tuple(space)
    if not shape or shape[0] != batch or 0 in shape:
        return None
    if len(shape) == 3 and len(space) == 1:
        return _signal_layout(shape, space, is_channels_last)
    if len(shape) == len(space) + 2:
        if_first, if_last = shape[2:], shape[1:-1]  # the spatial extents in each case
        only_last_fits = not _is_isotropic(if_first, space) and _is_isotropic(if_last, space)
        if only_last_fits and max(if_last) > 1:
            first_is_possible = all(
                large % small == 0 for small, large in zip(if_first, space, strict=True)
            )
            is_last = is_channels_last()
            if is_last or (is_last is None and not first_is_possible):
                return Layout("channels last", if_last, shape[-1])
        return Layout("channels first", if_first, shape[1])
    if len(shape) == 3:
        return _token_layout(shape[1], shape[2], space)
    return None


def _signal_layout(
    shape: tuple[int, ...], space: tuple[int, ...], is_channels_last: Callable[[], bool | None]
) -> Layout:
    """Return the layout of ``[batch, channels, time]`` or ``[batch, time, channels]``.

    The shape fits both readings, so only the layer can tell.
    """
    if not is_channels_last() or shape[1] > space[0] + max(_PREFIXES):
        return Layout("channels first", shape[2:], shape[1])
    tokens = _token_layout(shape[1], shape[2], space)
    return tokens or Layout("channels last", shape[1:-1], shape[-1])


def _is_isotropic(space: tuple[int, ...], input_space: tuple[int, ...]) -> bool:
    """Return whether every axis shrinks by one factor, up to rounding at the border."""
    factors = [large / small for small, large in zip(space, input_space, strict=True)]
    return min(factors) >= 1 and max(factors) / min(factors) < 1.15


def _token_layout(count: int, channels: int, space: tuple[int, ...]) -> Layout | None:
    """Return the layout of tokens whose grid divides the input by one patch size."""
    for prefix in _PREFIXES:
        if count - prefix < 2:
            continue
        patch = round((prod(space) / (count - prefix)) ** (1 / len(space)))
        for pad in (
            0,
            max(patch, 1) - 1,
        ):  # an incomplete patch at the border is cut off, or padded
            grid = tuple((extent + pad) // max(patch, 1) for extent in space)
            if patch >= 1 and prod(grid) == count - prefix:
                return Layout("tokens", grid, channels, prefix)
    return None


def _puts_channels_last(module: nn.Module) -> bool | None:
    """Return whether a module's last layer with weights puts channels last; None without one."""
    for submodule in reversed(list(module.modules())):
        if isinstance(submodule, _CHANNELS_FIRST):
            return False
        if isinstance(submodule, (nn.Linear, nn.LayerNorm)):
            return True
    return None


def _puts_features_last(module: nn.Module, extent: int) -> bool | None:
    """Return whether the last layer with weights has as many features as the last axis.

    Of a signal ``[batch, channels, time]`` that is read by its shape alone. A linear layer inside a
    squeeze-and-excitation block has other features, so its block is not taken for tokens.
    """
    for submodule in reversed(list(module.modules())):
        if isinstance(submodule, _CHANNELS_FIRST):
            return False
        if isinstance(submodule, nn.Linear):
            return submodule.out_features == extent
        if isinstance(submodule, nn.LayerNorm):
            return tuple(submodule.normalized_shape) == (extent,)
        if isinstance(submodule, nn.RNNBase):
            features = submodule.proj_size or submodule.hidden_size
            return features * (1 + submodule.bidirectional) == extent
    return None


def main_tensor(
    output: Any, batch: int, space: Sequence[int], module: nn.Module
) -> tuple[Tensor, Layout] | None:
    """Return the first tensor of a layer's output that lies on the image, and its layout.

    Tuples (hidden state, attention weights) and dicts are searched, too.

    Args:
        output: What the layer returned.
        batch: The batch size of the input.
        space: The spatial extents of the input.
        module: The layer.

    Returns:
        The tensor that maps are made of; None if no tensor lies on the image.
    """
    for _, tensor in tensors(output):
        if not tensor.is_floating_point():
            continue
        is_channels_last = partial(_puts_channels_last, module)
        if len(space) == 1 and tensor.ndim:
            is_channels_last = partial(_puts_features_last, module, tensor.shape[-1])
        layout = layout_of(tensor.shape, batch, space, is_channels_last=is_channels_last)
        if layout is not None:
            return tensor, layout
    return None
