"""Measures one library on one case, in a process of its own: time, peak memory, bytes saved.

Prints a line of JSON. `run.py` calls it for every cell of the table.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES
from libraries import make


def peak() -> int:
    """The process's highest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def saved_bytes(net: torch.nn.Module, call: object, x: torch.Tensor) -> int:
    """The bytes of storages kept for the backward pass, without parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers()]}
    sizes, kept = {}, []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call(x)
    return sum(sizes.values())


def main(case_name: str, library: str, rounds: int) -> None:
    """One cell: plain forward and library in turn, the median of the pairwise ratios."""
    case = CASES[case_name]
    net, x = case.network(), case.inputs()
    with torch.no_grad():
        net(x)
    before = peak()
    call = make(library, net, case.name_of_layer)
    call(x)
    extra = peak() - before
    ratios = []
    for _ in range(rounds):
        start = time.perf_counter()
        with torch.no_grad():
            net(x)
        middle = time.perf_counter()
        call(x)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    cell = {
        "case": case_name,
        "library": library,
        "ratio": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "peak": extra,
        "saved": saved_bytes(net, call, x),
    }
    print(json.dumps(cell))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
