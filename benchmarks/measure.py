"""Measures one cell of a table, in a process of its own: time, peak memory, bytes saved.

``python measure.py QUESTION ROW COLUMN`` prints a line of JSON; `run.py` calls it for every cell.
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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from cases import Case
from libraries import Maker, quiet

LEAST, MOST = 2, 15  # rounds


def peak() -> int:
    """The process's highest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def saved_bytes(net: nn.Module, call: Callable[[Tensor], Any], x: Tensor) -> int:
    """The bytes of storages kept for the backward pass, without parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers()]}
    sizes, kept = {}, []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call(x)
    return sum(sizes.values())


def seconds(call: Callable[[Tensor], Any], x: Tensor) -> float:
    """How long a call takes; the garbage collector waits meanwhile."""
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
    """Time, peak memory and bytes saved of one library on one case.

    Args:
        case: The network, its input and the layer.
        maker: The library.
        floor: What it is timed beside, in turn; None: nothing but the plain forward pass.
        budget: For about how many seconds to time.
        least: The rounds to time at least.
        count_saved: Whether to count the bytes saved, for which the call is made once more.

    Returns:
        ``ratio``, the median of the ratios to the plain forward pass that ran just before, with
        the first and third ``quartiles``, and ``best``, the ratio of the shortest times, which
        other work on the machine changes least; ``to_floor``, the median of those to the floor;
        ``plain`` seconds; ``peak``, by how many bytes the resident memory rises above the plain
        forward pass's; ``saved`` bytes; ``rounds``.
    """
    net, x = case.network(), case.inputs()
    with torch.no_grad():
        net(x)
    before = peak()
    call = quiet(maker, net, case.name_of_layer)
    call(x)
    extra = peak() - before

    def plain(x: Tensor) -> None:
        with torch.no_grad():
            net(x)

    calls = [plain, call]
    if floor is not None:
        calls.append(quiet(floor, net, case.name_of_layer))
    times: list[list[float]] = []
    begin = time.perf_counter()
    while len(times) < least or (len(times) < MOST and time.perf_counter() - begin < budget):
        times.append([seconds(each, x) for each in calls])
    ratios = [row[1] / row[0] for row in times]
    found = {
        "ratio": statistics.median(ratios),
        "quartiles": statistics.quantiles([*ratios, *ratios], n=4)[::2],
        "best": min(row[1] for row in times) / min(row[0] for row in times),
        "plain": statistics.median(row[0] for row in times),
        "rounds": len(times),
        "peak": extra,
    }
    if count_saved:
        found["saved"] = saved_bytes(net, call, x)
    if floor is not None:
        found["to_floor"] = statistics.median(row[1] / row[2] for row in times)
    return found


def main(question: str, row: str, column: str) -> None:
    """Prints one cell."""
    print(json.dumps(importlib.import_module(question).cell(row, column)))


if __name__ == "__main__":
    main(*sys.argv[1:])
