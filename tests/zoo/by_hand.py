"""Reference maps: a layer's activations and gradients from a forward hook and autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def evidence(
    net: nn.Module, layer: str, x: Any, score: Callable[[Any], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the output of the layer, and the gradient of ``score(output)`` with respect to it."""
    kept = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, (tuple, list)) else output)

    handle = net.get_submodule(layer).register_forward_hook(keep)
    output = net(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(score(output).sum(), kept)
    return kept[0].detach(), gradient


def hires_cam(net: nn.Module, layer: str, x: Any, score: Callable[[Any], Tensor]) -> Tensor:
    """Return HiResCAM of a layer ``[batch, channels, *layer]``, as ``[batch, 1, *layer]``."""
    activations, gradients = evidence(net, layer, x, score)
    return (activations * gradients).sum(1, keepdim=True)


def token_hires_cam(
    net: nn.Module,
    layer: str,
    x: Any,
    score: Callable[[Any], Tensor],
    prefix: int,
    grid: tuple[int, ...],
) -> Tensor:
    """Return HiResCAM ``[batch, 1, *grid]`` of a layer ``[batch, prefix + tokens, channels]``."""
    activations, gradients = evidence(net, layer, x, score)
    product = (activations * gradients).sum(2)[:, prefix:]
    return product.reshape(len(product), 1, *grid)
