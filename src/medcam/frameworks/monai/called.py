"""A network whose further inputs are given, so that it takes the image alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class Called(nn.Module):
    """``network(x, *args, **kwargs)`` as a module of ``x``, with the network's own layer names."""

    def __init__(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__()
        # Beside the registry of submodules: as one of them it would put its name before theirs.
        vars(self)["_called"] = (network, args, dict(kwargs))
        self._modules = network._modules
        self._parameters = network._parameters
        self._buffers = network._buffers
        self.training = network.training

    def forward(self, x: Any) -> Any:
        """What the network answers."""
        network, args, kwargs = vars(self)["_called"]
        return network(x, *args, **kwargs)
