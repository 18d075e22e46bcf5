"""Maps that do not tell the truth, and the networks with images that they are tried on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import medcam
from medcam.trust.blocks import to_numpy
from medcam.trust.controls import image_controls

CAMS = ("gcam", "gcampp", "hirescam", "layercam", "xgradcam", "segxrescam", "ggcam")
"""The methods of a layer that are made of gradients."""


def attention(model: nn.Module, images: Tensor, target: Any, layer: str) -> Tensor:
    """A map that is right on the networks of these tests."""
    explanation = medcam.explain(model, images, method="hirescam", layer=layer, target=target)
    return explanation.map.attention()[:, 0]


def fakes(layer: str) -> dict[str, Callable[..., Tensor]]:
    """Nine fakes by name, each a function of the network, the images and the target."""

    def control(name: str) -> Callable[..., Tensor]:
        def function(model: nn.Module, images: Tensor, target: Any) -> Tensor:
            maps = torch.from_numpy(image_controls(to_numpy(images), seed=99)[name])
            return maps[:1].repeat_interleave(len(maps), 0) if name == "random" else maps

        return function

    def fresh(model: nn.Module, images: Tensor, target: Any) -> Tensor:
        return torch.rand(len(images), *images.shape[2:])

    def mirrored(model: nn.Module, images: Tensor, target: Any) -> Tensor:
        return attention(model, images, target, layer).flip(-1)

    def other_case(model: nn.Module, images: Tensor, target: Any) -> Tensor:
        return attention(model, images, target, layer).roll(1, 0)

    def prediction(model: nn.Module, images: Tensor, target: Any) -> Tensor:
        with torch.no_grad():
            logits = model(images)
        return logits[:, -1].clamp(min=0) if logits.ndim > 2 else torch.zeros(images[:, 0].shape)

    def lower_half(model: nn.Module, images: Tensor, target: Any) -> Tensor:
        first = torch.linspace(0, 1, images.shape[2]).reshape(-1, *[1] * (images.ndim - 3))
        return first.expand(len(images), *images.shape[2:]).clone()

    return {
        **{f"fake {name}": control(name) for name in ("random", "edges", "centre", "intensity")},
        "fake fresh": fresh,
        "fake mirrored": mirrored,
        "fake other case": other_case,
        "fake prediction": prediction,
        "fake lower half": lower_half,
    }


SEVEN = (
    "fake random", "fake fresh", "fake edges", "fake centre", "fake intensity", "fake mirrored",
    "fake other case",
)  # fmt: skip
