"""Runs every library on every case and writes the table: ``python benchmarks/run.py``."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES
from libraries import LIBRARIES

HERE = Path(__file__).parent


def measured(case: str, library: str, rounds: int) -> dict | None:
    """One cell, from a process of its own; None where the library fails."""
    command = [sys.executable, str(HERE / "measure.py"), case, library, str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own script
    if done.returncode:
        print(f"{library} fails on {case}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def shown(cell: dict | None) -> str:
    """A cell: time as a ratio to a plain forward, bytes saved, extra peak memory."""
    if cell is None:
        return "fails"
    return f"{cell['ratio']:.2f}× / {cell['saved'] / 1e6:.1f} / {cell['peak'] / 2**20:.0f}"


def main() -> None:
    """The whole table, printed and written to ``benchmarks/results/``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds for each cell")
    rounds = parser.parse_args().rounds
    cells = [[measured(case, library, rounds) for library in LIBRARIES] for case in CASES]
    import torch

    lines = [
        (
            f"Measured on {dt.datetime.now(dt.timezone.utc):%Y-%m-%d}, {platform.machine()}, "
            f"{torch.get_num_threads()} threads, torch {torch.__version__}, median of {rounds}."
        ),
        "",
        (
            "Each cell: time as a ratio to one plain forward under `no_grad` / MB saved for the "
            "backward pass / MiB of extra peak memory."
        ),
        "",
        f"| case | {' | '.join(LIBRARIES)} |",
        f"|---|{'---|' * len(LIBRARIES)}",
    ]
    for case, row in zip(CASES, cells, strict=True):
        lines.append(f"| {case} | {' | '.join(shown(cell) for cell in row)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "latest.md").write_text(text)


if __name__ == "__main__":
    main()
