"""What the passes over a volume's windows share, and how what they give is added up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medcam.attention import MapKey
from medcam.errors import InputError
from medcam.layers import LayerLike
from medcam.methods import Method
from medcam.request import Request
from medcam.volume.members import Members
from medcam.volume.passes import Runner, Tick, Where, everywhere
from medcam.volume.windows import Windows

Pooling = Literal["window", "volume"]
Total = dict[MapKey, Tensor]


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that the passes over the windows share.

    Attributes:
        request: What is asked.
        members: The networks and their mirrorings.
        count: How many these are.
        windows: The windows.
        runner: Explains windows.
        batch_size: How many windows run at once.
        device: Where the sums are kept.
        pooling: Whether Grad-CAM weighs channels by "window" or once for the "volume".
        tick: Told how many windows were done.
    """

    request: Request
    members: Members
    count: int
    windows: Windows
    runner: Runner
    batch_size: int
    device: torch.device
    pooling: Pooling = "window"
    tick: Tick = lambda _: None

    @property
    def touched(self) -> list[Where]:
        """The windows that a target depends on."""
        seeds = self.runner.seeds
        return [item for item in self.everywhere if seeds.touch(*item)]

    @property
    def everywhere(self) -> list[Where]:
        """All windows."""
        return everywhere(len(self.runner.volume), self.windows)

    def asked(self, methods: Iterable[Method], layer: LayerLike = None) -> Request:
        """A request for other methods, and maybe another layer."""
        return dataclasses.replace(
            self.request, methods=tuple(methods), several=True, shape="input",
            layer=self.request.layer if layer is None else layer,
        )  # fmt: skip


def check_pooling(channel_weights: str) -> None:
    """Raises if this is no pooling.

    Raises:
        InputError: It is neither "window" nor "volume".
    """
    if channel_weights not in ("window", "volume"):
        raise InputError(f"channel_weights={channel_weights!r}: choose 'window' or 'volume'.")


def share(job: Job) -> Tensor:
    """The factor from a window's weight to its share of the stitched prediction."""
    return 1 / job.windows.sums()


def add(
    total: Total,
    key: MapKey,
    job: Job,
    where: Sequence[Where],
    values: Tensor,
    weights: Tensor,
) -> None:
    """Adds windows ``[windows, any..., *roi]`` to ``[batch, any..., *padded]``."""
    rank = job.windows.weights.ndim
    front = tuple(values.shape[1 : values.ndim - rank])
    if key not in total:
        dtype = torch.promote_types(values.dtype, job.windows.weights.dtype)
        shape = (len(job.runner.volume), *front, *job.windows.shape)
        total[key] = torch.zeros(shape, dtype=dtype, device=job.device)
    kept = values.to(total[key])
    weights = weights.to(kept)
    every = (slice(None),) * len(front)
    for (sample, place), part in zip(where, kept, strict=True):
        total[key][(sample, *every, *place)] += part * weights
