"""``medcam reproduce``: the maps of a record made again, and compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medcam.cli.errors import plain_errors
from medcam.cli.output import echo

if TYPE_CHECKING:
    from medcam.explanation.case.comparison import MapComparison
    from medcam.files.record.changes import Change


@plain_errors
def reproduce(
    record: Annotated[
        Path, typer.Argument(help="The record of a case: CASE.json, beside its maps.")
    ],
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", "-i", help="Where the image is now; one for each of its files."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", "-w", help="Where the weights are now.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The model now: MODULE:FACTORY, or nnU-Net's trained folder."
        ),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            "--arg", metavar="NAME=VALUE", help="The factory's arguments, instead of the record's."
        ),
    ] = None,
    search: Annotated[
        Path | None,
        typer.Option(
            "--search",
            metavar="FOLDER",
            help="A folder where files that moved are looked for by their names.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Default: the one of the record.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new folder to save the maps in, too."),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run the code that the record names, and read files that can run code: only for "
            "records and files whose origin you know.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Make the maps of a record again, and say whether they are the same.

    The files that the record names are verified first, and the same call is
    repeated in memory. The exit code is 0 if all maps are the same bit for
    bit, 1 if one differs, and 2 if they cannot be made again. The differences
    between then and now are listed: files, versions, device, layer, target.
    """
    from medcam.cli.recipe import Overrides
    from medcam.cli.remaking import remake
    from medcam.errors import InputError, InputTypeError, MedcamError
    from medcam.explanation.case.comparison import compare_maps
    from medcam.files.record.changes import changes
    from medcam.files.record.recipe import read_recipe
    from medcam.files.record.sidecar import read_sidecar

    overrides = Overrides(
        image=tuple(image or ()), weights=weights, model=model, arg=tuple(arg or ()),
        search=search, device=device, trust=trust,
    )  # fmt: skip
    try:
        _check_output(output)
        then = read_sidecar(record)
        remade = remake(read_recipe(then, record), then, record, overrides, progress=not as_json)
        comparisons = compare_maps(then, record, remade.maps)
        files = [] if output is None else remade.save(output / record.stem)
    except (InputError, InputTypeError):
        raise
    except MedcamError as error:  # all that is no answer is exit code 2
        raise InputError(str(error)) from error
    differences = changes(then, remade.record)
    if as_json:
        echo(json.dumps(_summary(record, comparisons, differences, files), indent=1))
    else:
        _print(comparisons, differences, files)
    if not all(comparison.same for comparison in comparisons):
        raise typer.Exit(1)


def _check_output(folder: Path | None) -> None:
    """Raise if results would be written among other files."""
    from medcam.errors import InputError

    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--output {folder} is not empty: give a new folder; nothing is replaced.")


def _summary(
    record: Path,
    comparisons: Sequence[MapComparison],
    differences: Sequence[Change],
    files: Sequence[Path],
) -> dict[str, Any]:
    """Return the result as JSON values."""
    return {
        "record": str(record),
        "same": all(comparison.same for comparison in comparisons),
        "maps": [
            {**dataclasses.asdict(comparison), "same": comparison.same}
            for comparison in comparisons
        ],
        "changes": [dataclasses.asdict(change) for change in differences],
        "files": [str(path) for path in files],
    }


def _print(
    comparisons: Sequence[MapComparison], differences: Sequence[Change], files: Sequence[Path]
) -> None:
    """Print the result for people."""
    for comparison in comparisons:
        name = ", ".join(
            part for part in (comparison.method, comparison.layer, comparison.target) if part
        )
        echo(f"{'same' if comparison.same else 'differs':9} {name}: {_verdict(comparison)}")
    for change in differences:
        echo(f"{'changed':9} {change}")
    if not differences and not all(comparison.same for comparison in comparisons):
        echo(f"{'changed':9} nothing that the record names")
    for path in files:
        echo(f"{'written':9} {path}")


def _verdict(comparison: MapComparison) -> str:
    """Return what a comparison says about a map, as a part of a line."""
    parts = []
    if comparison.recorded == comparison.current:
        parts.append(f"sha256 {comparison.current}")
    elif comparison.current is None:
        parts.append("there is no such map now")
    elif comparison.difference is None:
        parts.append("no values to compare with")
    else:
        relative, correlation = comparison.relative, comparison.correlation
        share = "" if relative is None else f" ({relative:.3g} times the recorded map's maximum)"
        parts.append(f"largest difference {comparison.difference:.3g}{share}")
        if correlation is not None:
            parts.append(f"rank correlation {correlation:.6g}")
    if comparison.file is None:
        parts.append("its file is missing")
    if comparison.problem:
        parts.append(f"its file {comparison.file or ''} {comparison.problem}".replace("  ", " "))
    return ", ".join(parts)
