"""What does medcam itself cost, apart from the model?"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import libraries

TITLE = "The host's part"
ROWS = [
    "importing medcam, beside importing torch (ms)",
    "a call on a tiny net, beyond capture and gradient by hand (ms)",
    "a call on a tiny net, beyond the plain forward pass (ms)",
    "disabled: ResNet18, 64² (ratio)",
    "disabled: a tiny net (µs)",
]
GOALS = dict(zip(ROWS, [150, 0.5, None, 1.02, None], strict=True))
COLUMNS = ["medcam"]


def tiny() -> nn.Module:
    """Two convolutions, pooling, a linear layer: 50 µs of forward pass."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 2),
    ).eval()  # fmt: skip


def in_turn(*calls: Callable[[], Any], rounds: int = 200, times: int = 10) -> list[float]:
    """The seconds of each call, measured in turn: the tenth percentile, as nothing makes it faster.

    What makes it slower (other work, a lower clock) comes and goes within seconds.
    """
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, taken, strict=True):
            start = time.perf_counter()
            for _ in range(times):
                call()
            found.append((time.perf_counter() - start) / times)
    return [statistics.quantiles(found, n=10)[0] for found in taken]


def without_grad(model: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """A plain call."""

    def call() -> Any:
        with torch.no_grad():
            return model(x)

    return call


def importing(rounds: int = 7) -> float:
    """By how many seconds importing medcam adds to importing torch."""
    code = (
        "import time, torch; s = time.perf_counter(); import medcam; print(time.perf_counter()-s)"
    )
    found = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)  # noqa: S603  # our own code
        for _ in range(rounds)
    ]
    return statistics.median(found)


def cell(row: str, column: str) -> dict[str, Any]:
    """One figure."""
    import medcam

    if row == ROWS[0]:
        return {"value": importing() * 1e3}
    torch.manual_seed(0)
    if row == ROWS[3]:
        from cases import _torchvision

        net, x = _torchvision("resnet18")().eval(), torch.rand(1, 3, 64, 64)
        model = medcam.inject(net, enabled=False)
        plain, disabled = in_turn(without_grad(net, x), without_grad(model, x), times=1)
        return {"value": disabled / plain}
    torch.set_num_threads(1)
    net, x = tiny(), torch.rand(1, 1, 16, 16)
    if row == ROWS[4]:
        model = medcam.inject(net, enabled=False)
        plain, disabled = in_turn(without_grad(net, x), without_grad(model, x))
        return {"value": (disabled - plain) * 1e6}
    model = medcam.inject(net, layer="3", label=1)
    by_hand = libraries.floor(tiny(), "3")
    plain, hand, injected = in_turn(
        without_grad(net, x), lambda: by_hand(x), without_grad(model, x)
    )
    return {"value": (injected - (hand if row == ROWS[1] else plain)) * 1e3}
