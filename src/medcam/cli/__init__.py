"""The command line: ``medcam``, one file per command."""

from __future__ import annotations

import typer

from medcam.cli.demo import demo
from medcam.cli.errors import speaks_plainly
from medcam.cli.explain import explain
from medcam.cli.layers import layers
from medcam.cli.nnunet import nnunet
from medcam.cli.numbers import NumbersCommand
from medcam.cli.report import report

app = typer.Typer(
    name="medcam",
    help="Attention maps of CNN-based PyTorch models, 2D and 3D.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (speaks_plainly(demo), explain, layers, report):
    app.command(cls=NumbersCommand)(command)
app.add_typer(nnunet)


@app.callback()
def main() -> None:
    """Attention maps of CNN-based PyTorch models, 2D and 3D."""


__all__ = ["app"]
