"""Evidence: the activations and gradients of one run, from which methods compute maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from medcam.methods import Method


@dataclass(eq=False)
class Evidence:
    """The evidence of one run.

    Attributes:
        layers: The names of the layers that have a map.
        activations: By layer, ``[batch, channels, *layer]``.
        gradients: By target, then by layer, ``[batch, channels, *layer]``.
        inputs: The main input, ``[batch, channels, *space]``.
        input_gradients: By target, ``[batch, channels, *space]``.
        guided_gradients: By target, ``[batch, channels, *space]``.
        maps: By target, layer and method. Maps made during the backward pass
            (`medcam.engine.gradients.stream_gradients`); activations and gradients are then empty.
        zero_weights: By layer, the samples whose map is zero because channel gradients cancel.
    """

    layers: list[str] = field(default_factory=list)
    activations: dict[str, Tensor] = field(default_factory=dict)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    inputs: Tensor | None = None
    input_gradients: list[Tensor] = field(default_factory=list)
    guided_gradients: list[Tensor] = field(default_factory=list)
    maps: list[dict[str, dict[str, Tensor]]] = field(default_factory=list)
    zero_weights: dict[str, Tensor] = field(default_factory=dict)

    def map(self, method: Method, target: int, layer: str | None) -> Tensor:
        """Return a method's map of one target and layer."""
        if layer is not None and self.maps:
            return self.maps[target][layer][method.name]
        return self.apply(method, layer, self._by_name(target, layer))

    def apply(self, method: Method, layer: str | None, by_name: dict[str, Any]) -> Tensor:
        """Compute a method's map from the evidence.

        Args:
            method: The method.
            layer: The layer, for which samples with cancelling gradients are recorded.
            by_name: The evidence of one target and layer, by the names in `medcam.methods`.
        """
        values = method.of(by_name)
        flags = None if layer is None else method.has_zero_weights(by_name, values)
        if layer is not None and flags is not None:
            earlier = self.zero_weights.get(layer)
            self.zero_weights[layer] = flags if earlier is None else flags | earlier
        return values

    def _by_name(self, target: int, layer: str | None) -> dict[str, Any]:
        """Return the evidence of one target and layer by name."""
        by_name: dict[str, Any] = {"inputs": self.inputs}
        if layer is not None:
            by_name["activations"] = self.activations[layer]
            if self.gradients:
                by_name["gradients"] = self.gradients[target][layer]
        if self.input_gradients:
            by_name["input_gradients"] = self.input_gradients[target]
        if self.guided_gradients:
            by_name["guided_gradients"] = self.guided_gradients[target]
        return by_name
