"""``medcam report``: the pages of saved cases, made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcam.cli.errors import plain_errors
from medcam.cli.output import echo


@plain_errors
def report(
    folder: Annotated[Path, typer.Argument(help="The folder that results were saved to.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The folder for the pages. Without it, beside the results."
        ),
    ] = None,
) -> None:
    """Write a page for each case of a folder of results, and an index of them.

    The pages open in any browser, from disk and without a network: image and
    maps in linked planes, the scores, and how the maps were made. A case that
    cannot be read is a line of the index with its error.
    """
    from rich.console import Console
    from rich.text import Text

    from medcam.explanation.case.reading import report_folder

    console = Console(stderr=True)
    done, failed = 0, 0
    with console.status("writing reports ..."):
        for entry in report_folder(folder, output):
            if entry.error is None:
                done += 1
                continue
            failed += 1
            console.print(Text(f"{entry.name}: {entry.error}"), soft_wrap=True)
    summary = "1 report" if done == 1 else f"{done} reports"
    if failed:
        summary += f", {failed} case{'' if failed == 1 else 's'} without one"
    echo(f"{summary}: {(output or folder) / 'index.html'}")
    if not done:
        raise typer.Exit(1)
