"""Measurement of one cell of a table in its own process: time, peak memory, saved bytes.

``python measure.py TABLE ROW COLUMN`` prints one line of JSON. `run.py` calls it for each cell.
"""

from __future__ import annotations

import gc
import importlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cases import Case  # makes `support` importable
from libraries import Maker, quiet
from support.saved import saved_bytes

LEAST, MOST = 2, 15  # timed rounds


def peak() -> int:
    """Return the highest resident memory of the process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seconds(call: Callable[[Tensor], Any], x: Tensor) -> float:
    """Return the seconds of a call, without garbage collection during the call."""
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    call(x)
    elapsed = time.perf_counter() - start
    gc.enable()
    return elapsed


def cell(
    case: Case,
    maker: Maker,
    *,
    floor: Maker | None = None,
    budget: float = 8.0,
    least: int = LEAST,
    count_saved: bool = True,
) -> dict[str, Any]:
    """Measure time, peak memory and saved bytes of one library on one case.

    Args:
        case: The network, its input and the layer.
        maker: Makes the call of the library.
        floor: Makes the call of the floor, which is timed in turn with the library. None: only the
            plain forward pass is timed in turn.
        budget: The seconds that the timing takes, roughly.
        least: The minimum number of timed rounds.
        count_saved: Whether to count the saved bytes, which takes one more call.

    Returns:
        A dict with these keys:

        - ``ratio``: the time divided by that of the plain forward pass just before, the median;
        - ``quartiles``: the first and the third quartile of this ratio;
        - ``best``: the ratio of the shortest times, which is least affected by other work;
        - ``plain``: the seconds of the plain forward pass, the median;
        - ``rounds``: the number of timed rounds;
        - ``peak``: the bytes by which the resident memory rises above the plain forward pass;
        - ``saved``: the bytes saved for the backward pass, if counted;
        - ``to_floor``: the time divided by that of the floor, the median, if there is a floor.
    """
    net, x = case.network(), case.inputs()
    with torch.no_grad():
        net(x)
    before = peak()
    call = quiet(maker, net, case.layer_in_network)
    call(x)
    extra = peak() - before

    def plain(x: Tensor) -> None:
        with torch.no_grad():
            net(x)

    calls = [plain, call]
    if floor is not None:
        calls.append(quiet(floor, net, case.layer_in_network))
    times: list[list[float]] = []
    start = time.perf_counter()
    while len(times) < least or (len(times) < MOST and time.perf_counter() - start < budget):
        times.append([seconds(timed_call, x) for timed_call in calls])
    ratios = [row[1] / row[0] for row in times]
    figures = {
        "ratio": statistics.median(ratios),
        "quartiles": statistics.quantiles([*ratios, *ratios], n=4)[::2],
        "best": min(row[1] for row in times) / min(row[0] for row in times),
        "plain": statistics.median(row[0] for row in times),
        "rounds": len(times),
        "peak": extra,
    }
    if count_saved:
        figures["saved"] = saved_bytes(net, lambda: call(x))
    if floor is not None:
        figures["to_floor"] = statistics.median(row[1] / row[2] for row in times)
    return figures


def main(table: str, row: str, column: str) -> None:
    """Print one cell of a table as JSON."""
    print(json.dumps(importlib.import_module(table).cell(row, column)))


if __name__ == "__main__":
    main(*sys.argv[1:])
