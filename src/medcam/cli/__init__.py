"""The command line: ``medcam``, one file per command."""

from __future__ import annotations

import typer

from medcam.cli.demo import demo

app = typer.Typer(
    name="medcam",
    help="Attention maps of CNN-based PyTorch models, 2D and 3D.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)


@app.callback()
def main() -> None:
    """Attention maps of CNN-based PyTorch models, 2D and 3D."""


__all__ = ["app"]
