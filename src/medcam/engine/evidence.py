"""Evidence: the activations and gradients of one run, from which methods compute maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from medcam.engine.activation import Activation, LayerKey
from medcam.engine.agreements import Agreements
from medcam.engine.blanks import Blanks
from medcam.methods import Method

ReplayKey = tuple[str, LayerKey | None, int]
"""The name of a method, a layer, and the number of an image."""


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
        replayed: Maps of methods that run the model again, ``[batch, targets, ...]``, by method,
            layer and image.
        replayed_images: The numbers of the images that these methods change.
        details: What such methods tell of their maps, for the record.
        agreements: How well maps agree with those of another method; None: not compared.
        blanks: The maps that are zero everywhere, with the reasons.
    """

    layers: list[LayerKey] = field(default_factory=list)
    recorded: dict[LayerKey, Activation] = field(default_factory=dict)
    activations: dict[LayerKey, Tensor] = field(default_factory=dict)
    gradients: list[dict[LayerKey, Tensor]] = field(default_factory=list)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    input_gradients: list[dict[int, Tensor]] = field(default_factory=list)
    guided_gradients: list[dict[int, Tensor]] = field(default_factory=list)
    maps: list[dict[LayerKey, dict[str, Tensor]]] = field(default_factory=list)
    replayed: dict[ReplayKey, Tensor] = field(default_factory=dict)
    replayed_images: tuple[int, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    agreements: Agreements | None = None
    blanks: Blanks = field(default_factory=Blanks)

    def images_of(self, method: Method) -> list[int]:
        """Return the numbers of the images that a method has a map of."""
        if method.replays:
            return list(self.replayed_images)
        per_target = self.input_gradients or self.guided_gradients
        return list(per_target[0]) if per_target else list(self.inputs)

    def map(self, method: Method, target: int, layer: LayerKey | None, image: int) -> Tensor:
        """Return a method's map of one target, of a layer or of an image."""
        if method.replays:
            return self.replayed[method.name, layer, image][:, target]
        if layer is not None and self.maps:
            return self.maps[target][layer][method.name]
        return self.apply(method, target, layer, self.by_name(target, layer, image))

    def apply(
        self, method: Method, target: int, layer: LayerKey | None, by_name: dict[str, Any]
    ) -> Tensor:
        """Compute a method's map from the evidence, and note where it is blank.

        Args:
            method: The method.
            target: The number of the target.
            layer: The layer.
            by_name: The evidence of this target and layer, by the names in `medcam.methods`.
        """
        values = method.of(by_name)
        self.blanks.note(method, target, layer, by_name, values)
        if self.agreements is not None and layer is not None and not method.of_input:
            self.agreements.note(method, layer[0], by_name, values)
        return values

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
