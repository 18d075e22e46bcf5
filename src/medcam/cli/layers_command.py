"""``medcam layers``: a model's layers as a tree, and which of them can have a map."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medcam.cli.errors import plain_errors
from medcam.cli.model import ArgOption, ModelOption, TrustOption, WeightsOption, load_model
from medcam.cli.numbers import extents
from medcam.cli.output import echo, stdout

if TYPE_CHECKING:
    from torch import nn

    from medcam.explanation.layer_table import LayerRow, Overview


@plain_errors
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
            help="The shape of an input, e.g. --shape 1 1 96 96 96: the model runs on random "
            "numbers. Without it, only names and parameters are shown.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show a model's layers as a tree, and which of them can have a map.

    Every line has the layer's name as --layer takes it, its class, the shape
    of its output, and its parameters; if no map can be made of it, the
    reason. The layer that --layer auto takes is marked.
    """
    network = load_model(model, weights=weights, trust=trust, args=arg or [])
    size = None if shape is None else extents(shape, "--shape")
    table = _overview(network, size)
    if as_json:
        echo(json.dumps(_as_json(network, size, table), indent=1))
    else:
        _print(type(network).__name__, size, table)


def _overview(model: nn.Module, shape: tuple[int, ...] | None) -> Overview:
    import torch

    from medcam.errors import InputError, MedcamError
    from medcam.explanation.layer_table import overview

    if shape is None:
        return overview(model)
    generator = torch.Generator().manual_seed(0)
    try:
        return overview(model, torch.rand(shape, generator=generator))
    except MedcamError:
        raise
    except Exception as error:  # the user's model may raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise InputError(
            f"The model does not run on an input of the shape {list(shape)}: "
            f"{type(error).__name__}: {reason}"
        ) from error


def _as_json(model: nn.Module, shape: tuple[int, ...] | None, table: Overview) -> dict[str, Any]:
    return {
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "input": None if shape is None else list(shape),
        "parameters": table.parameters,
        "automatic": table.automatic,
        "why_not": table.why_not,
        "layers": [dataclasses.asdict(row) for row in table.rows],
    }


_WIDE = 1000  # columns


def _print(title: str, shape: tuple[int, ...] | None, table: Overview) -> None:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    input_shape = "" if shape is None else f", input {list(shape)}"
    tree = Tree(Text(f"{title}{input_shape}, {table.parameters:,} parameters", "bold"))
    branches = {"": tree}
    for row in table.rows:
        parent = row.name.rpartition(".")[0]
        while parent not in branches:  # a module listed under another name
            parent = parent.rpartition(".")[0]
        branches[row.name] = branches[parent].add(_line(row))
    console = Console(file=stdout())
    # Wide enough for every name: broken over lines it can neither be copied nor searched for.
    Console(file=stdout(), width=_WIDE).print(tree)
    if shape is None:
        console.print("Give --shape to see each layer's output, and which can have a map.")
        return
    mappable = sum(row.mappable is True for row in table.rows)
    legend = f"● a map can be made ({mappable} of {len(table.rows)} layers)   ○ it cannot"
    console.print(Text(legend))
    if table.automatic is None:
        console.print(Text(f"--layer auto takes none: {table.why_not}"))
    else:
        console.print(Text(f"--layer auto takes {table.automatic}"))


def _line(row: LayerRow) -> Any:
    from rich.text import Text

    mark = "" if row.mappable is None else "● " if row.mappable else "○ "
    line = Text(mark, "green" if row.mappable else "dim")
    above, dot, last = row.name.rpartition(".")
    line.append(above + dot, "dim").append(last, "bold" if row.mappable is not False else "dim")
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
