"""Command line: ``medcam``, one file per command; it parses options and computes nothing itself."""

from __future__ import annotations

from typing import Annotated

import typer

from medcam.installation import BROKEN, require_whole

try:
    require_whole()
except ImportError:  # one line, not a traceback
    raise SystemExit(f"Error: {BROKEN}") from None

from medcam.cli.check_command import check
from medcam.cli.demo_command import demo
from medcam.cli.errors import plain_errors
from medcam.cli.explain_command import explain
from medcam.cli.layers_command import layers
from medcam.cli.nnunet_check_command import check as nnunet_check
from medcam.cli.nnunet_command import nnunet
from medcam.cli.numbers import NumbersCommand
from medcam.cli.report_command import report
from medcam.cli.reproduce_command import reproduce

app = typer.Typer(
    name="medcam",
    help="Attention maps of CNN-based PyTorch models, 2D and 3D.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help are shapes, not markup
)
for command in (plain_errors(demo), explain, check, layers, report, reproduce):
    app.command(cls=NumbersCommand)(command)
nnunet.command("check")(nnunet_check)
app.add_typer(nnunet)


def _print_version(requested: bool) -> None:
    if requested:
        from medcam import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Attention maps of CNN-based PyTorch models, 2D and 3D."""


__all__ = ["app"]
