"""Runs every question and writes the tables: ``python benchmarks/run.py``."""

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

sys.path.insert(0, str(Path(__file__).parent))
from chart import draw

HERE = Path(__file__).parent
RESULTS = HERE / "results"
QUESTIONS = ["gradcam", "guided", "memory", "host"]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

Cells = dict[str, dict[str, dict[str, Any] | None]]


def measured(question: str, row: str, column: str) -> dict[str, Any] | None:
    """One cell, from a process of its own; None where the library fails or has no such method."""
    command = [sys.executable, str(HERE / "measure.py"), question, row, column]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own script
    if done.returncode:
        print(f"{column} fails on {row}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    cell = json.loads(done.stdout.splitlines()[-1])
    print(f"{question}: {row}, {column}: {shown(cell)}", file=sys.stderr)
    return cell


def shown(cell: dict[str, Any] | None) -> str:
    """A cell: time in plain forward passes / MB saved / MiB of peak; or a figure by itself."""
    if cell is None:
        return "–"
    if "value" in cell:
        return f"{cell['value']:.3g}"
    floor = f" ({cell['to_floor']:.2f})" if "to_floor" in cell else ""
    saved = f"{cell['saved'] / 1e6:.1f} / " if "saved" in cell else ""
    return f"{cell['ratio']:.2f}×{floor} / {saved}{cell['peak'] / 2**20:.0f}"


def table(question: str, cells: Cells) -> list[str]:
    """A question's table, with the goal beside ours."""
    module = importlib.import_module(question)
    lines = [
        f"### {module.TITLE}", "",
        f"| | goal | {' | '.join(module.COLUMNS)} |", f"|---|---|{'---|' * len(module.COLUMNS)}",
    ]  # fmt: skip
    for row, found in cells.items():
        goal = module.GOALS[row]
        sign = "" if question == "host" else "×"
        lines.append(
            f"| {row} | {'' if goal is None else f'≤ {goal:g}{sign}'} | "
            f"{' | '.join(shown(found[column]) for column in module.COLUMNS)} |"
        )
    return [*lines, ""]


def text_of(result: dict[str, Any]) -> str:
    """All tables."""
    measured_on = (
        f"Measured on {result['date']}: {result['machine']}, {result['threads']} threads, "
        f"torch {result['torch']}; load average {result['load'][0]} before, {result['load'][1]} "
        "after (other work on the machine makes the ratios scatter)."
    )
    meaning = (
        "Each cell: time in plain `no_grad` forward passes, median (in brackets: in floors) / MB "
        "kept for the backward pass / MiB of peak memory beyond the plain forward pass's."
    )
    lines = [measured_on, "", meaning, ""]
    for question, cells in result["cells"].items():
        lines += table(question, cells)
    if "nnunet" in result:
        lines += [
            "### A whole case through nnU-Net, in `nnUNetv2_predict`s",
            "",
            "| | |",
            "|---|---|",
        ]
        lines += [f"| {name} | {value} |" for name, value in result["nnunet"].items()]
        lines += [""]
    return "\n".join(lines)


def write(
    result: dict[str, Any], folder: Path = RESULTS, readme: Path = HERE / "README.md"
) -> None:
    """Writes JSON, tables and chart, and puts the tables into the README."""
    folder.mkdir(exist_ok=True)
    text = text_of(result)
    (folder / "latest.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (folder / "latest.md").write_text(text, encoding="utf-8")
    if "gradcam" in result["cells"]:
        draw(result["cells"]["gradcam"], folder / "latest.png")
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def add(name: str, figures: dict[str, Any]) -> None:
    """Puts what was measured apart (`nnunet.py`) beside the last figures."""
    result = json.loads((RESULTS / "latest.json").read_text(encoding="utf-8"))
    write({**result, name: figures})


def main() -> None:
    """Measures; a question that is not asked for keeps its last figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, help="threads of each process (all cores)")
    parser.add_argument("--only", nargs="*", choices=QUESTIONS, default=QUESTIONS)
    options = parser.parse_args()
    asked = options.only
    if options.threads:  # the measuring processes inherit it
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    begin, load = time.time(), os.getloadavg()
    last = RESULTS / "latest.json"
    before = json.loads(last.read_text(encoding="utf-8")) if last.exists() else {}
    cells: dict[str, Cells] = before.get("cells", {})
    for question in asked:
        module = importlib.import_module(question)
        cells[question] = {
            row: {column: measured(question, row, column) for column in module.COLUMNS}
            for row in module.ROWS
        }
    import torch

    result = {
        "date": f"{dt.datetime.now(dt.timezone.utc):%Y-%m-%d}",
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": [f"{load[0]:.1f}", f"{os.getloadavg()[0]:.1f}"],
        "minutes": round((time.time() - begin) / 60, 1),
        "cells": {question: cells[question] for question in QUESTIONS if question in cells},
    }
    if "nnunet" in before:
        result["nnunet"] = before["nnunet"]
    write(result)
    print(text_of(result))


if __name__ == "__main__":
    main()
