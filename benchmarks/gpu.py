"""Grad-CAM on a GPU: milliseconds and peak memory of each library, under bfloat16 autocast.

``python benchmarks/gpu.py`` writes ``results/gpu-DATE.md``. Without a GPU it prints a message and
measures nothing.
"""

from __future__ import annotations

import datetime as dt
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gradcam
from cases import CASES, Case
from libraries import Maker, quiet

RESULTS = Path(__file__).parent / "results"
ROWS = ["ResNet50 B=8, layer4", "DenseNet121-3D 128³, features", "nnU-Net 128³, bottleneck"]


def timed(call: Callable[[Tensor], Any], x: Tensor, rounds: int = 20) -> float:
    """Return the median milliseconds of a call on the device, after three warm-up calls."""
    for _ in range(3):
        call(x)
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call(x)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def peak(call: Callable[[Tensor], Any], x: Tensor) -> int:
    """Return by how many bytes the allocated memory rises during a call, at its peak."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call(x)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def under_autocast(call: Callable[[Tensor], Any], device: str) -> Callable[[Tensor], Any]:
    """Return the call wrapped in bfloat16 autocast."""

    def run(x: Tensor) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return call(x)

    return run


def cell(case: Case, maker: Maker | None) -> str:
    """Measure milliseconds and MiB of one library; None: of the plain forward pass."""
    net, x = case.network().cuda(), case.inputs().cuda()
    if maker is None:

        def call(x: Tensor) -> None:
            with torch.no_grad():
                net(x)

    try:
        if maker is not None:
            call = quiet(maker, net, case.layer_in_network)
        run = under_autocast(call, "cuda")
        return f"{timed(run, x):.1f} / {peak(run, x) / 2**20:.0f}"
    except Exception as error:  # noqa: BLE001  # a failing library is a cell of the table
        print(f"{maker}: {error}", file=sys.stderr)
        return "fails"


def report(cells: dict[str, list[str]], columns: list[str], device: str) -> str:
    """Return the table as Markdown."""
    lines = [
        f"{device}, torch {torch.__version__}, bfloat16 autocast, {dt.date.today():%Y-%m-%d}.",  # noqa: DTZ011
        "",
        "Each cell: milliseconds of a call (median) / MiB of peak memory beyond the model's own.",
        "",
        f"| case | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(f"| {row} | {' | '.join(texts)} |" for row, texts in cells.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure all libraries, print the table and save it; return the exit status."""
    if not torch.cuda.is_available():
        print("There is no CUDA GPU on this machine: nothing was measured.")
        return 1
    makers: dict[str, Maker | None] = {"plain forward": None, **gradcam.LIBRARIES}
    cells = {row: [cell(CASES[row], maker) for maker in makers.values()] for row in ROWS}
    text = report(cells, list(makers), torch.cuda.get_device_name())
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"gpu-{dt.date.today():%Y-%m-%d}.md").write_text(text, encoding="utf-8")  # noqa: DTZ011
    return 0


if __name__ == "__main__":
    sys.exit(main())
