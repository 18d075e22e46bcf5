"""The plan that all passes over a volume's windows share, and the sums of the windows' maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medcam.engine.model.layers import LayerLike
from medcam.engine.progress import Tick
from medcam.engine.request import Request
from medcam.engine.windows.ensemble import Members
from medcam.engine.windows.kept import KeptActivations
from medcam.engine.windows.prediction import SamplePlace, all_places
from medcam.engine.windows.runner import Runner
from medcam.engine.windows.tiling import Windows
from medcam.errors import InputError
from medcam.maps import MapKey
from medcam.methods import Method

ChannelWeights = Literal["window", "volume"]
"""Whether channels are weighted for each window by itself, or once for the volume."""

Totals = dict[MapKey, Tensor]
"""Sums over windows on the padded grid, by ``(method, layer)``."""


@dataclass(frozen=True, eq=False)
class StitchingPlan:
    """Values that all passes over the windows share.

    Attributes:
        request: The request.
        members: The networks and their mirrorings.
        count: The number of members.
        windows: The windows.
        runner: The runner that explains windows.
        batch_size: The number of windows that run at once.
        device: The device of the sums.
        channel_weights: Whether channels are weighted by "window" or once for the "volume".
        kept: Activations of the prediction pass; None if it was not run here.
        tick: Called after each group, with its number of windows.
    """

    request: Request
    members: Members
    count: int
    windows: Windows
    runner: Runner
    batch_size: int
    device: torch.device
    channel_weights: ChannelWeights = "window"
    kept: KeptActivations | None = None
    tick: Tick = lambda _: None

    @property
    def touched_places(self) -> list[SamplePlace]:
        """The windows that a target depends on."""
        gradient = self.runner.gradient
        return [sample_place for sample_place in self.places if gradient.touches(*sample_place)]

    @property
    def places(self) -> list[SamplePlace]:
        """The windows of all samples."""
        return all_places(len(self.runner.volume), self.windows)

    def request_for(self, methods: Mapping[str, Method], layer: LayerLike = None) -> Request:
        """Return the request for other methods, renamed to their keys.

        Args:
            methods: The methods by their new names.
            layer: The layer; None: that of the plan's request.
        """
        renamed = [dataclasses.replace(method, name=name) for name, method in methods.items()]
        return dataclasses.replace(
            self.request, methods=tuple(renamed), several=True, shape="input",
            layer=self.request.layer if layer is None else layer,
        )  # fmt: skip

    def shares(self) -> Tensor:
        """Return the factor from a window's weight to its share of the stitched prediction."""
        return 1 / self.windows.sums()


def check_channel_weights(channel_weights: str) -> None:
    """Raise unless this is "window" or "volume".

    Raises:
        InputError: It is neither.
    """
    if channel_weights not in ("window", "volume"):
        raise InputError(f"channel_weights={channel_weights!r}: choose 'window' or 'volume'.")


def add_windows(
    totals: Totals,
    key: MapKey,
    plan: StitchingPlan,
    places: Sequence[SamplePlace],
    values: Tensor,
    weights: Tensor,
) -> None:
    """Add windows ``[windows, any..., *roi]`` to the sum ``[batch, any..., *padded]``.

    Args:
        totals: The sums; a sum for the key is created if missing.
        key: The method and layer.
        plan: The plan.
        places: The windows.
        values: The windows' maps.
        weights: The weight of each voxel of a window.
    """
    spatial_axes = plan.windows.weights.ndim
    leading = tuple(values.shape[1 : values.ndim - spatial_axes])
    if key not in totals:
        dtype = torch.promote_types(values.dtype, plan.windows.weights.dtype)
        shape = (len(plan.runner.volume), *leading, *plan.windows.shape)
        totals[key] = torch.zeros(shape, dtype=dtype, device=plan.device)
    parts = values.to(totals[key])
    weights = weights.to(parts)
    all_leading = (slice(None),) * len(leading)
    for (sample, place), part in zip(places, parts, strict=True):
        totals[key][(sample, *all_leading, *place)] += part * weights


def mean_over_windows(plan: StitchingPlan, totals: Totals) -> Totals:
    """Return the means over windows and members, given the weighted sums."""
    sums = plan.windows.sums()
    return {key: values / sums.to(values) / plan.count for key, values in totals.items()}


def layers_of(totals: Iterable[MapKey], name: str) -> list[str | None]:
    """Return the layers for which one method has sums."""
    keys = [key for key in totals if isinstance(key, tuple) and key[0] == name]
    return [key[1] if isinstance(key[1], str) else None for key in keys]
