"""Overhead of medcam apart from the model: its import, a call, a disabled call."""

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

TITLE = "Overhead of medcam itself"
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
    """Return two convolutions, pooling and a linear layer: a forward pass of about 50 µs."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 2),
    ).eval()  # fmt: skip


def time_in_turn(*calls: Callable[[], Any], rounds: int = 200, repeats: int = 10) -> list[float]:
    """Return the seconds of each call: the tenth percentile over the rounds.

    Disturbances, such as other work or a lower clock rate, only make a call slower, and they come
    and go within seconds. So the calls take turns, and a low percentile is taken, not the median.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, call_times in zip(calls, times, strict=True):
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            call_times.append((time.perf_counter() - start) / repeats)
    return [statistics.quantiles(call_times, n=10)[0] for call_times in times]


def without_grad(model: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """Return a call of the model under `torch.no_grad`."""

    def call() -> Any:
        with torch.no_grad():
            return model(x)

    return call


def importing(rounds: int = 7) -> float:
    """Return the seconds that importing medcam takes after torch, the median over the rounds."""
    code = (
        "import time, torch; s = time.perf_counter(); import medcam; print(time.perf_counter()-s)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)  # noqa: S603  # our own code
        for _ in range(rounds)
    ]
    return statistics.median(times)


def cell(row: str, column: str) -> dict[str, Any]:
    """Measure one row."""
    import medcam

    if row == ROWS[0]:
        return {"value": importing() * 1e3}
    torch.manual_seed(0)
    if row == ROWS[3]:
        from cases import torchvision_builder

        net, x = torchvision_builder("resnet18")().eval(), torch.rand(1, 3, 64, 64)
        model = medcam.inject(net, enabled=False)
        plain, disabled = time_in_turn(without_grad(net, x), without_grad(model, x), repeats=1)
        return {"value": disabled / plain}
    torch.set_num_threads(1)
    net, x = tiny(), torch.rand(1, 1, 16, 16)
    if row == ROWS[4]:
        model = medcam.inject(net, enabled=False)
        plain, disabled = time_in_turn(without_grad(net, x), without_grad(model, x))
        return {"value": (disabled - plain) * 1e6}
    model = medcam.inject(net, layer="3", label=1)
    by_hand = libraries.floor(tiny(), "3")
    plain, hand, injected = time_in_turn(
        without_grad(net, x), lambda: by_hand(x), without_grad(model, x)
    )
    return {"value": (injected - (hand if row == ROWS[1] else plain)) * 1e3}
