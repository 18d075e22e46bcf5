"""Runner of the benchmarks: ``python benchmarks/run.py`` measures and writes all tables."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chart import draw

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TABLES = ["gradcam", "guided", "memory", "host"]  # a module each
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

Cells = dict[str, dict[str, dict[str, Any] | None]]


def measure_cell(table: str, row: str, column: str) -> dict[str, Any] | None:
    """Measure one cell in its own process; None if the library fails or has no such method."""
    command = [sys.executable, str(HERE / "measure.py"), table, row, column]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own script
    if done.returncode:
        print(f"{column} fails on {row}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    cell = json.loads(done.stdout.splitlines()[-1])
    print(f"{table}: {row}, {column}: {cell_text(cell)}", file=sys.stderr)
    return cell


def cell_text(cell: dict[str, Any] | None) -> str:
    """Return the text of a cell: time / MB saved / MiB of peak memory, or a single figure."""
    if cell is None:
        return "–"
    if "value" in cell:
        return f"{cell['value']:.3g}"
    floor = f" ({cell['to_floor']:.2f})" if "to_floor" in cell else ""
    saved = f"{cell['saved'] / 1e6:.1f} / " if "saved" in cell else ""
    return f"{cell['ratio']:.2f}×{floor} / {saved}{cell['peak'] / 2**20:.0f}"


def table_lines(table: str, cells: Cells) -> list[str]:
    """Return the Markdown lines of a table, with a column of goals."""
    module = importlib.import_module(table)
    lines = [
        f"### {module.TITLE}", "",
        f"| | goal | {' | '.join(module.COLUMNS)} |", f"|---|---|{'---|' * len(module.COLUMNS)}",
    ]  # fmt: skip
    unit = "" if table == "host" else "×"
    for row, columns in cells.items():
        goal = module.GOALS[row]
        lines.append(
            f"| {row} | {'' if goal is None else f'≤ {goal:g}{unit}'} | "
            f"{' | '.join(cell_text(columns[column]) for column in module.COLUMNS)} |"
        )
    return [*lines, ""]


def report_text(result: dict[str, Any]) -> str:
    """Return all tables as Markdown, below a line on the machine and one on the units."""
    machine = (
        f"Measured on {result['date']}: {result['machine']}, {result['threads']} threads, "
        f"torch {result['torch']}; load average {result['load'][0]} before, {result['load'][1]} "
        "after (other work on the machine makes the ratios scatter)."
    )
    units = (
        "Each cell: median time in plain `no_grad` forward passes (in brackets: in floors) / MB "
        "kept for the backward pass / MiB of peak memory above the plain forward pass."
    )
    lines = [machine, "", units, ""]
    for table, cells in result["cells"].items():
        lines += table_lines(table, cells)
    if "nnunet" in result:
        lines += [
            "### A whole case through nnU-Net, relative to `nnUNetv2_predict`",
            "",
            "| | |",
            "|---|---|",
        ]
        lines += [f"| {name} | {value} |" for name, value in result["nnunet"].items()]
        lines += [""]
    return "\n".join(lines)


def write_results(
    result: dict[str, Any], folder: Path = RESULTS, readme: Path = HERE / "README.md"
) -> None:
    """Write JSON, tables and chart to the folder, and the tables into the README."""
    folder.mkdir(exist_ok=True)
    text = report_text(result)
    (folder / "latest.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (folder / "latest.md").write_text(text, encoding="utf-8")
    if "gradcam" in result["cells"]:
        draw(result["cells"]["gradcam"], folder / "latest.png")
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def add_figures(name: str, figures: dict[str, Any]) -> None:
    """Add the figures of a separate script (`nnunet.py`) to the last results."""
    result = json.loads((RESULTS / "latest.json").read_text(encoding="utf-8"))
    write_results({**result, name: figures})


def main() -> None:
    """Measure the requested tables; the others keep their last figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, help="threads of each process (default: all cores)")
    parser.add_argument("--only", nargs="*", choices=TABLES, default=TABLES, help="these tables")
    options = parser.parse_args()
    if options.threads:  # the measuring processes inherit it
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    start, load = time.time(), os.getloadavg()
    latest = RESULTS / "latest.json"
    previous = json.loads(latest.read_text(encoding="utf-8")) if latest.exists() else {}
    cells: dict[str, Cells] = previous.get("cells", {})
    for table in options.only:
        module = importlib.import_module(table)
        cells[table] = {
            row: {column: measure_cell(table, row, column) for column in module.COLUMNS}
            for row in module.ROWS
        }
    import torch

    result = {
        "date": f"{dt.datetime.now(dt.timezone.utc):%Y-%m-%d}",
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": [f"{load[0]:.1f}", f"{os.getloadavg()[0]:.1f}"],
        "minutes": round((time.time() - start) / 60, 1),
        "cells": {table: cells[table] for table in TABLES if table in cells},
    }
    if "nnunet" in previous:
        result["nnunet"] = previous["nnunet"]
    write_results(result)
    print(report_text(result))


if __name__ == "__main__":
    main()
