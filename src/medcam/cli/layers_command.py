"""``medcam layers``."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medcam.cli.errors import speaks_plainly
from medcam.cli.model import ArgOption, ModelOption, TrustOption, WeightsOption, load_model
from medcam.cli.numbers import extents

if TYPE_CHECKING:
    from torch import nn

    from medcam.explanation.overview import LayerRow, Overview


@speaks_plainly
def layers(
    model: ModelOption,
    arg: ArgOption = None,
    weights: WeightsOption = None,
    trust: TrustOption = False,
    shape: Annotated[
        str | None,
        typer.Option(
            "--shape",
            metavar="B C [X] Y Z",
            help="The shape of an input, e.g. --shape 1 1 96 96 96. The model runs on random "
            "numbers of that shape. Without it, only names and parameters are shown.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Shows a model's layers as a tree, and of which of them a map can be made.

    Every line has the layer's name as --layer takes it, its kind, the shape
    of what it puts out, and its parameters; where no map can be made, the
    reason. The layer that --layer auto takes is marked.
    """
    made = load_model(model, weights=weights, trust=trust, args=arg or [])
    size = None if shape is None else extents(shape, "--shape")
    found = _look(made, size)
    if as_json:
        typer.echo(json.dumps(_as_json(made, size, found), indent=1))
    else:
        _print(type(made).__name__, size, found)


def _look(model: nn.Module, shape: tuple[int, ...] | None) -> Overview:
    import torch

    from medcam.errors import InputError, MedcamError
    from medcam.explanation.overview import overview

    if shape is None:
        return overview(model)
    generator = torch.Generator().manual_seed(0)
    try:
        return overview(model, torch.rand(shape, generator=generator))
    except MedcamError:
        raise
    except Exception as error:  # their model may raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise InputError(
            f"The model does not run on an input of the shape {list(shape)}: "
            f"{type(error).__name__}: {reason}"
        ) from error


def _as_json(model: nn.Module, shape: tuple[int, ...] | None, found: Overview) -> dict[str, Any]:
    return {
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "input": None if shape is None else list(shape),
        "parameters": found.parameters,
        "automatic": found.automatic,
        "why_not": found.why_not,
        "layers": [dataclasses.asdict(row) for row in found.rows],
    }


_WIDE = 1000  # columns


def _print(title: str, shape: tuple[int, ...] | None, found: Overview) -> None:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    given = "" if shape is None else f", input {list(shape)}"
    tree = Tree(Text(f"{title}{given}, {found.parameters:,} parameters", "bold"))
    branches = {"": tree}
    for row in found.rows:
        parent = row.name.rpartition(".")[0]
        while parent not in branches:  # the module in between is listed under another name
            parent = parent.rpartition(".")[0]
        branches[row.name] = branches[parent].add(_line(row))
    console = Console()
    # as wide as it is: a name that is broken over lines can neither be copied nor searched for
    Console(width=_WIDE).print(tree)
    if shape is None:
        console.print("Give --shape to see what each puts out, and where a map can be made.")
        return
    mappable = sum(row.mappable is True for row in found.rows)
    legend = f"● a map can be made ({mappable} of {len(found.rows)} layers)   ○ it cannot"
    console.print(Text(legend))
    if found.automatic is None:
        console.print(Text(f"--layer auto takes none: {found.why_not}"))
    else:
        console.print(Text(f"--layer auto takes {found.automatic}"))


def _line(row: LayerRow) -> Any:
    from rich.text import Text

    mark = "" if row.mappable is None else "● " if row.mappable else "○ "
    line = Text(mark, "green" if row.mappable else "dim")
    above, dot, own = row.name.rpartition(".")
    line.append(above + dot, "dim").append(own, "bold" if row.mappable is not False else "dim")
    line.append(f"  {row.kind}", "cyan")
    if row.space is not None:
        line.append(f"  {row.channels} x {' x '.join(map(str, row.space))}")
    if row.parameters:
        line.append(f"  {row.parameters:,}", "dim")
    if row.reason is not None:
        line.append(f"  {row.reason}", "dim italic")
    if row.automatic:
        line.append("  <- auto", "bold green")
    return line
