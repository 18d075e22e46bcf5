"""A network with its further inputs bound, so that the image is its only argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class BoundNetwork(nn.Module):
    """``network(x, *args, **kwargs)`` as a module of ``x``, with the network's own layer names."""

    def __init__(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__()
        # Not assigned as an attribute: a registered submodule would prefix the layers' names.
        vars(self)["_bound"] = (network, args, dict(kwargs))
        self._modules = network._modules
        self._parameters = network._parameters
        self._buffers = network._buffers
        self.training = network.training

    def forward(self, x: Any) -> Any:
        """Return the network's output for the image and the bound inputs."""
        network, args, kwargs = vars(self)["_bound"]
        return network(x, *args, **kwargs)
