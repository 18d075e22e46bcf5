"""What methods that run the model again cost, before they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.methods import Method

FORWARDS_PER_PASS = 4
"""A pass that makes maps counts as this many forward passes: its own and the backward passes."""

_CHANNELS = 256
"""The number of channels that a layer is taken to have."""


class _AnnouncedError(Exception):
    """A method has told on how many images it will run the model."""

    def __init__(self, cost: int) -> None:
        super().__init__(cost)
        self.cost = cost


@dataclass(eq=False)
class _Counting:
    """A function in the place of one that runs the model: it counts, and returns zeros.

    Attributes:
        cost: What a run on one image costs, in forward passes.
        shape: The shape of the result for one image.
        total: The cost so far.
    """

    cost: int
    shape: tuple[int, ...]
    total: list[int]

    def announce(self, count: int) -> None:
        """End the method: what it costs is known."""
        raise _AnnouncedError(self.cost * count)

    def __call__(self, changed: Tensor) -> Tensor:
        """Count the images."""
        self.total[0] += self.cost * len(changed)
        return torch.zeros(len(changed), *self.shape)


def replay_cost(method: Method, image: Float[Tensor, "1 channels *space"]) -> int:
    """Return what a map of one image costs by a method that runs the model again.

    The method's function runs with functions that only count. A layer is taken to have 256
    channels, the most that Score-CAM and Ablation-CAM try by default. A function of the user's that
    does not run on these stand-ins counts as far as it came.

    Args:
        method: The method.
        image: The image.

    Returns:
        The number of forward passes; 0 for a method that runs the model once.

    Example:
        >>> from medcam import methods
        >>> image = torch.zeros(1, 1, 16, 16)
        >>> replay_cost(methods.intgrad(steps=8), image), replay_cost(methods.get("gcam"), image)
        (32, 0)
    """
    if not method.replays:
        return 0
    total, space = [0], tuple(image.shape[1:])
    inner = 0 if method.repeated is None else replay_cost(method.repeated, image)
    functions = {
        "score_of": _Counting(1, (1,), total),
        "score_of_masked": _Counting(1, (1,), total),
        "score_without": _Counting(1, (1,), total),
        "input_gradient_at": _Counting(FORWARDS_PER_PASS, (1, *space), total),
        "map_at": _Counting(FORWARDS_PER_PASS + inner, (1, *space), total),
    }
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(1, _CHANNELS, *(2,) * (image.ndim - 2), generator=generator)
    evidence: dict[str, Any] = {"inputs": image.detach().cpu(), "activations": features}
    try:
        method.of({**evidence, **functions})
    except _AnnouncedError as announced:
        return announced.cost + total[0]
    except Exception:  # noqa: BLE001  # a function of the user's may need more than stand-ins
        return max(total[0], 1)
    return total[0]
