"""Rules of modules whose operations do not tell where their cells lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.parts import UnplacedError, nothing
from medcam.engine.model.placement.rules.sampling import windows

ModuleRule = Callable[[nn.Module, Geometry, Sequence[int]], Geometry]
"""Return the geometry of a module's output from that of its input and the output's shape."""


def module_rule(module: nn.Module) -> ModuleRule | None:
    """Return the rule of a module; None if its operations tell.

    Example:
        >>> module_rule(nn.Conv2d(1, 1, 3)) is None, module_rule(nn.LSTM(1, 1)) is None
        (True, False)
    """
    if isinstance(module, nn.RNNBase):
        return _recurrent
    if isinstance(module, nn.modules.conv._ConvNd) and module.padding_mode == "circular":
        return _circular
    return None


def _recurrent(module: nn.Module, geometry: Geometry, shape: Sequence[int]) -> Geometry:
    """Rule of a recurrent layer: each step of the sequence stays where it is."""
    if len(shape) != len(geometry.dims):
        raise UnplacedError("a packed sequence")
    result = geometry.contracted(geometry.dims[-1])
    result = result.spread(part for dim in geometry.dims[:-1] for part in dim)
    return result.with_dim(len(shape) - 1, nothing(shape[-1]))


def _circular(module: nn.Module, geometry: Geometry, shape: Sequence[int]) -> Geometry:
    """Rule of a convolution with circular padding."""
    if not isinstance(module, nn.modules.conv._ConvNd):
        raise UnplacedError("not a convolution")
    rank = len(module.kernel_size)
    before = list(module._reversed_padding_repeated_twice[::2][::-1])
    first = len(shape) - rank
    result = geometry.contracted(geometry.dims[first - 1])
    result = result.with_dim(first - 1, nothing(shape[first - 1]))
    return windows(
        result, range(first, len(shape)), shape[first:], module.kernel_size, module.stride,
        before, module.dilation,
    )  # fmt: skip
