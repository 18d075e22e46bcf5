"""``medcam demo``: the packaged networks under the paper's four methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medcam.cli.output import stdout


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write to.", show_default=True)
    ] = Path("medcam_demo"),
) -> None:
    """Run packaged trained networks on real images: maps, scores, a figure and pages to look at.

    A 2D classifier that finds lesions in head slices, a 2D U-Net that segments lungs in CT, and a
    3D U-Net that finds the brain in a head scan, each under Guided Backpropagation, Grad-CAM,
    Guided Grad-CAM and Grad-CAM++.
    """
    import pandas as pd
    from rich.console import Console

    from medcam.demo.figure import save_figure
    from medcam.demo.pages import write_pages
    from medcam.demo.results import HOW_TO_READ, MethodResult, group_by_task, run_tasks
    from medcam.evaluation.workbook import to_workbook
    from medcam.files import write_atomically

    console = Console(file=stdout())
    results: list[MethodResult] = []
    with console.status("explaining ...") as status:
        for result in run_tasks(output):
            results.append(result)
            status.update(f"explaining ... {result.task.title}, {result.title}")
        picture = save_figure(results, output / "gallery.png")
        scores = pd.DataFrame([_row(result) for result in results])
        excel = write_atomically(output / "scores.xlsx", to_workbook({"Scores": scores}).save)
        status.update("writing pages ...")
        written = write_pages(results, output)
    for group in group_by_task(results):
        console.print(_table(group))
    console.print(f"{HOW_TO_READ}\n", highlight=False)
    lines = {"figure": picture, "scores": excel, "maps": output / "*" / "*"}
    for name, path in lines.items():
        console.print(f"{name:8}{path}", highlight=False, soft_wrap=True)
    console.print(f"[bold]open    {written.index}[/bold]", highlight=False, soft_wrap=True)


def _row(result: Any) -> dict[str, Any]:
    """Return a row of the workbook."""
    means = result.means
    return {
        "task": f"{result.task.title}: {result.task.question}",
        "method": result.title,
        "layer": result.layer or "",
        **{name: value for name, value in means.items() if name != "chance"},
        "by chance": means["chance"],
        "images": len(result.task.samples),
    }


def _table(group: list[Any]) -> Any:
    """Return the scores of a task as a table for the terminal."""
    from rich.table import Column, Table

    from medcam.demo.results import METRICS

    task = group[0].task
    numbers = [Column(title, justify="right") for title in (*METRICS.values(), "By chance")]
    table = Table(
        Column("Method", no_wrap=True),
        "Layer",
        *numbers,
        title=f"{task.title}: {task.question}",
        title_justify="left",
    )
    for result in group:
        means = [f"{result.means[name]:.2f}" for name in (*METRICS, "chance")]
        table.add_row(result.title, result.layer or "(input)", *means)
    return table
