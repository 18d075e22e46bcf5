"""``medcam demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    from rich.table import Column, Table

    from medcam import methods
    from medcam.demo.run import SHOWN, TITLES, Result, figure, run
    from medcam.evaluation.workbook import to_workbook
    from medcam.files import write_atomically

    console = Console()
    tables: list[Table] = []
    rows: list[dict[str, Any]] = []
    results: list[Result] = []
    with console.status("explaining ..."):
        for result in run(output):
            title = result.task.title.replace("\n", ": ")
            if not results or results[-1].task is not result.task:
                tables.append(Table(Column("method", no_wrap=True), "layer", *TITLES, title=title))
            results.append(result)
            name = methods.get(result.method).title
            shown = [f"{result.scores[metric]:.2f}" for metric in SHOWN]
            tables[-1].add_row(name, result.layer or "(input)", *shown, f"{result.chance:.2f}")
            row = {"task": title, "method": name, "layer": result.layer}
            rows.append({**row, **result.scores, "by chance": result.chance})
        picture = figure(results, output / "gallery.png")
        excel = write_atomically(
            output / "scores.xlsx", to_workbook({"Scores": pd.DataFrame(rows)}).save
        )
    for table in tables:
        console.print(table)
    console.print(
        "Attention inside the ground truth: WIoA, of what is above Otsu's threshold; mass, "
        "of all; pointing, how often the maximum is inside. By chance: what a map "
        "without any knowledge reaches, the mask's share of the image.\n"
    )
    console.print(f"figure  {picture}\nscores  {excel}\nmaps    {output}/*/*/", highlight=False)
