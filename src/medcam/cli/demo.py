"""``medcam demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write to.", show_default=True)
    ] = Path("medcam_demo"),
) -> None:
    """Runs the packaged networks on packaged real images: maps, scores and a figure.

    A 3D U-Net that finds the brain in a T1 head scan, and a 2D classifier that finds lesions in
    head slices, each under Guided Backpropagation, Grad-CAM, Guided Grad-CAM and Grad-CAM++.
    """
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from medcam import methods
    from medcam.demo.run import SHOWN, figure, run
    from medcam.evaluation.workbook import to_workbook
    from medcam.files import write_atomically

    console = Console()
    table = Table("task", "method", "layer", *SHOWN, title="Attention inside the ground truth")
    rows, results = [], []
    with console.status("explaining ..."):
        for result in run(output):
            results.append(result)
            title = result.task.title.replace("\n", " ")
            name = methods.get(result.method).title
            shown = [_cell(result.scores[m], result.chances[m]) for m in SHOWN]
            table.add_row(title, name, result.layer or "(input)", *shown)
            chances = {f"{m} by chance": result.chances[m] for m in SHOWN}
            rows.append(
                {"task": title, "method": name, "layer": result.layer, **result.scores, **chances}
            )
        picture = figure(results, output / "gallery.png")
        book = to_workbook({"Scores": pd.DataFrame(rows).dropna(axis="columns", how="all")})
        excel = write_atomically(output / "scores.xlsx", book.save)
    console.print(table)
    console.print(f"figure  {picture}\nscores  {excel}\nmaps    {output}/*/*/", highlight=False)


def _cell(score: float, chance: float | None) -> str:
    return f"{score:.2f}" if chance is None else f"{score:.2f} (chance {chance:.2f})"
