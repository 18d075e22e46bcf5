"""Evidence: the activations and gradients of one run, from which methods compute maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from medcam.engine.activation import Activation, LayerKey
from medcam.methods import Method


@dataclass(eq=False)
class Evidence:
    """The evidence of one run.

    Attributes:
        layers: The layers that have a map, each with the number of the image that it saw.
        recorded: By layer, what was recorded.
        activations: By layer, ``[samples, channels, *layer]``.
        gradients: By target, then by layer, ``[samples, channels, *layer]``.
        inputs: By number, the images ``[batch, channels, *space]``.
        input_gradients: By target and image, ``[batch, channels, *space]``.
        guided_gradients: By target and image, ``[batch, channels, *space]``.
        maps: By target, layer and method. Maps made during the backward pass
            (`medcam.engine.gradients.stream_gradients`); activations and gradients are then empty.
        zero_weights: By layer, the samples whose map is zero because channel gradients cancel.
    """

    layers: list[LayerKey] = field(default_factory=list)
    recorded: dict[LayerKey, Activation] = field(default_factory=dict)
    activations: dict[LayerKey, Tensor] = field(default_factory=dict)
    gradients: list[dict[LayerKey, Tensor]] = field(default_factory=list)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    input_gradients: list[dict[int, Tensor]] = field(default_factory=list)
    guided_gradients: list[dict[int, Tensor]] = field(default_factory=list)
    maps: list[dict[LayerKey, dict[str, Tensor]]] = field(default_factory=list)
    zero_weights: dict[LayerKey, Tensor] = field(default_factory=dict)

    @property
    def images(self) -> list[int]:
        """The numbers of the images with gradients."""
        per_target = self.input_gradients or self.guided_gradients
        return list(per_target[0]) if per_target else list(self.inputs)

    @property
    def blank(self) -> dict[str, Tensor]:
        """By the name of the layer, the samples ``[batch]`` for which `zero_weights` holds.

        A sample with several slices is blank if all of them are.
        """
        blank = {}
        for key, flags in self.zero_weights.items():
            recorded = self.recorded.get(key)
            arrangement = None if recorded is None else recorded.layout.arrangement
            blank[key[0]] = flags if arrangement is None else arrangement.of_samples(flags)
        return blank

    def map(self, method: Method, target: int, layer: LayerKey | None, image: int) -> Tensor:
        """Return a method's map of one target, of a layer or of an image."""
        if layer is not None and self.maps:
            return self.maps[target][layer][method.name]
        return self.apply(method, layer, self.by_name(target, layer, image))

    def apply(self, method: Method, layer: LayerKey | None, by_name: dict[str, Any]) -> Tensor:
        """Compute a method's map from the evidence.

        Args:
            method: The method.
            layer: The layer, for which samples with cancelling gradients are recorded.
            by_name: The evidence of one target and layer, by the names in `medcam.methods`.
        """
        values = method.of(by_name)
        self.note_zero_weights(method, layer, by_name, values)
        return values

    def note_zero_weights(
        self, method: Method, layer: LayerKey | None, by_name: dict[str, Any], values: Tensor
    ) -> None:
        """Record the samples whose map is zero because channel gradients cancel."""
        flags = None if layer is None else method.has_zero_weights(by_name, values)
        if layer is not None and flags is not None:
            earlier = self.zero_weights.get(layer)
            self.zero_weights[layer] = flags if earlier is None else flags | earlier

    def by_name(self, target: int, layer: LayerKey | None, image: int) -> dict[str, Any]:
        """Return the evidence of one target, layer and image by name."""
        by_name: dict[str, Any] = {"inputs": self.inputs.get(image)}
        if layer is not None:
            by_name["activations"] = self.activations[layer]
            if self.gradients:
                by_name["gradients"] = self.gradients[target][layer]
        if self.input_gradients:
            by_name["input_gradients"] = self.input_gradients[target][image]
        if self.guided_gradients:
            by_name["guided_gradients"] = self.guided_gradients[target][image]
        return by_name
