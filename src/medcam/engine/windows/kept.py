"""Activations that the prediction pass keeps, so that shared weights cost no second one.

The layer of an automatic choice is not known before the target is resolved on the prediction, so
the layers that it may be are kept, as far as memory allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcam.engine.assemble import on_image
from medcam.engine.model.undo import ForwardHooks
from medcam.engine.windows.prediction import SamplePlace
from medcam.maps import AttentionMap, resample

_Windows = tuple[tuple[int, tuple[int, ...]], ...]
"""A group of windows: of each the sample and the first voxel."""

_Key = tuple[int, _Windows, str]
"""A member, a group of windows, and a layer."""

_MOST_BYTES = 2**30
"""The most memory that the activations of one layer may take."""


@dataclass(eq=False)
class KeptActivations:
    """Outputs of layers in the windows of the prediction pass.

    Attributes:
        layers: The layers that are kept; those that take too much memory are given up.
        groups: The number of groups of windows of all members.
    """

    layers: list[str]
    groups: int
    _kept: dict[_Key, Tensor] = field(default_factory=dict)

    @contextmanager
    def recording(
        self, model: nn.Module, member: int, group: Sequence[SamplePlace]
    ) -> Iterator[None]:
        """Keep the outputs of the layers in one group of windows.

        Args:
            model: The network.
            member: The number of the network and mirroring.
            group: The windows.
        """
        hooks = [
            (model.get_submodule(layer), partial(self._keep, (member, _windows(group), layer)))
            for layer in self.layers
        ]
        with ForwardHooks(hooks):
            yield

    def of(self, member: int, group: Sequence[SamplePlace], layer: str) -> Tensor | None:
        """Return the output of a layer in a group of windows; None if it was not kept."""
        return self._kept.get((member, _windows(group), layer)) if layer in self.layers else None

    def _keep(
        self,
        key: _Key,
        module: nn.Module,
        inputs: Any,
        output: Any,
    ) -> None:
        """Keep an output, a copy since the model may write to it; give up what does not fit."""
        layer = key[2]
        if layer not in self.layers:
            return
        is_plain = type(output) is Tensor and output.ndim > 2 and output.is_floating_point()
        runs_again = key in self._kept
        if not is_plain or runs_again or output.nbytes * self.groups > _MOST_BYTES:
            self.layers.remove(layer)
            for known in [known for known in self._kept if known[2] == layer]:
                del self._kept[known]
            return
        self._kept[key] = output.detach().clone()


def _windows(group: Sequence[SamplePlace]) -> _Windows:
    """Return what tells a group of windows apart."""
    return tuple(
        (sample, tuple(axis.start if isinstance(axis, slice) else axis for axis in window))
        for sample, window in group
    )


def project(
    weights: Float[Tensor, "windows channels"],
    offset: Float[Tensor, "windows channels"],
    activations: Float[Tensor, "windows channels *layer"],
) -> Float[Tensor, "windows *layer"]:
    """Return ``Σ_k w_k (A^k - offset_k)``."""
    centred = activations - offset.to(activations)[(..., *[None] * (activations.ndim - 2))]
    return torch.einsum("bk,bk...->b...", weights.to(activations), centred)


def projected(
    activations: Tensor,
    weights: Sequence[Tensor],
    offset: Tensor,
    first: AttentionMap,
    space: Sequence[int],
    flips: Sequence[int],
) -> Tensor:
    """Return the maps of kept activations, ``[windows, targets, *roi]``.

    Args:
        activations: The output of the layer, ``[windows, channels, *layer]``.
        weights: Of each target the channel weights, ``[windows, channels]``.
        offset: What is subtracted from the activations, ``[windows, channels]``.
        first: A map of this layer that was made by a run: it knows where the cells lie.
        space: The extents of the windows.
        flips: The spatial axes along which the windows were mirrored.
    """
    if activations.dtype in (torch.float16, torch.bfloat16):
        activations = activations.float()
    values = torch.stack([project(column, offset, activations) for column in weights], 1)
    grid = first.grid
    placed = resample(values, space) if grid is None else on_image(values, grid, space, space)
    return placed.flip([axis + 2 for axis in flips]) if flips else placed
