"""``medcam nnunet``: maps of a trained nnU-Net v2, and what a trained folder offers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medcam.cli.errors import in_options, plain_errors
from medcam.cli.options import (
    MethodOption,
    OverwriteOption,
    PlacementOption,
    methods_of,
    one_or_several,
)
from medcam.cli.output import echo, stdout

if TYPE_CHECKING:
    from medcam.frameworks.nnunet import Case, TrainedModel

nnunet = typer.Typer(
    name="nnunet",
    help="Whole cases through a trained nnU-Net v2, in the geometry of their images.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FolderOption = Annotated[
    Path,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL_FOLDER",
        help="The trained folder, the one that holds plans.json, dataset.json and the folds.",
    ),
]
FoldsOption = Annotated[
    str,
    typer.Option("--folds", "-f", help="all, a number, several (0,1,4), or fold_all."),
]
CheckpointOption = Annotated[
    str, typer.Option("--checkpoint", help="The file in each fold, e.g. checkpoint_best.pth.")
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Read checkpoints that hold more than plain data, and networks that are not "
        "nnU-Net's. Such a folder can run any code: only for folders whose origin you know.",
    ),
]
StepSizeOption = Annotated[
    float, typer.Option("--step-size", help="The tile step size, in windows.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; default: the GPU, if any.")
]


@nnunet.command()
@plain_errors
def explain(
    model: FolderOption,
    image: Annotated[
        Path,
        typer.Option(
            "--input",
            "-i",
            help="The first image of a case (case_0000.nii.gz), a folder of cases, or a CSV table "
            "with the columns image, image2, ... (one per channel) and optionally case_id.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the results.")],
    label: Annotated[str, typer.Option("--label", help="The label's name in dataset.json.")],
    method: MethodOption = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            help="auto (default), bottleneck, full, or a name of `medcam nnunet info`; may be "
            "given several times.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="predicted, component, the image of a region (0/1), 'point x,y,z' in voxels of "
            "the image or 'mm x,y,z'.",
        ),
    ] = "predicted",
    folds: FoldsOption = "all",
    tta: Annotated[
        bool, typer.Option("--tta/--no-tta", help="Mirroring, as nnUNetv2_predict does it.")
    ] = True,
    checkpoint: CheckpointOption = "checkpoint_final.pth",
    step_size: StepSizeOption = 0.5,
    channel_weights: Annotated[
        str,
        typer.Option(
            "--channel-weights",
            help="Grad-CAM's: once for the volume (default), or of each window.",
        ),
    ] = "volume",
    placement: PlacementOption = "features",
    batch_size: Annotated[int, typer.Option("--batch-size", help="Windows at once.")] = 1,
    prev_stage: Annotated[
        Path | None,
        typer.Option(
            "--prev-stage",
            help="Cascades: the previous stage's segmentation, or a folder of them.",
        ),
    ] = None,
    device: DeviceOption = None,
    trust: TrustOption = False,
    overwrite: OverwriteOption = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also write a report to open in a browser.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Explain a label: float32 maps on the grid of each original image.

    For every case: CASE_METHOD.nii.gz (raw units), CASE_seg.nii.gz (the
    segmentation, as nnUNetv2_predict writes it) and CASE.json, the record of
    how they were made. A case that fails does not end the run; the exit code
    is then 1.
    """
    from medcam.files.folder import make_folder
    from medcam.frameworks import nnunet as framework

    trained = framework.load(
        model, folds=folds_of(folds), checkpoint=checkpoint, device=device, tta=tta,
        step_size=step_size, trust=trust,
    )  # fmt: skip
    framework.check(trained, label, target, channel_weights, batch_size)
    chosen = methods_of(method)
    check_layers(trained, layer)
    make_folder(output)
    cases = framework.find_cases(trained, image, previous=prev_stage)
    options = {
        "label": label, "method": chosen, "layer": one_or_several(layer, "auto"),
        "target": target, "channel_weights": channel_weights, "placement": placement,
        "batch_size": batch_size, "progress": not as_json,
    }  # fmt: skip
    saving = {"overwrite": overwrite, "report": report, "methods": method or ["auto"]}
    rows = [_row(trained, case, options, output, saving) for case in cases]
    if as_json:
        echo(json.dumps(rows, indent=1))
    else:
        _print(rows, output)
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


@nnunet.command()
@plain_errors
def info(
    model: FolderOption,
    folds: FoldsOption = "all",
    checkpoint: CheckpointOption = "checkpoint_final.pth",
    trust: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show what a trained folder offers: labels, channels, folds, layers."""
    from medcam.engine.model.layers import get_layers
    from medcam.frameworks import nnunet as framework

    trained = framework.load(
        model, folds=folds_of(folds), checkpoint=checkpoint, device="cpu", trust=trust
    )
    facts: dict[str, Any] = {
        "labels": [name for name in trained.labels if name != "ignore"],
        "channels": trained.channel_names,
        "folds": list(trained.folds),
        "trainer": trained.trainer_name,
        "network": type(trained.network).__name__,
        "patch_size": list(trained.patch_size),
        "spacing": trained.spacing,
        "mirror_axes": list(trained.mirror_axes),
        "previous_stage": trained.cascaded,
        "bottleneck": trained.bottleneck,
        "layers": get_layers(trained.network),
    }
    if as_json:
        echo(json.dumps(facts, indent=1))
        return
    layers = facts.pop("layers")
    for name, value in facts.items():
        listed = ", ".join(map(str, value)) if isinstance(value, list) else value
        echo(f"{name.replace('_', ' '):15} {listed if listed is not None else 'none'}")
    echo(f"{'layers':15} {len(layers)}; those of a stage:")
    for layer in layers:
        if "stages." in layer and layer.rpartition("stages.")[2].isdigit():
            echo(f"{'':15} {layer}")


def check_layers(trained: TrainedModel, layer: list[str] | None) -> None:
    """Raise if a layer does not exist, before the first case."""
    from medcam.engine.model import layers
    from medcam.errors import InputError

    for name in layer or []:
        if name not in ("bottleneck", "auto", "full"):
            try:
                layers.find(trained.network, name)
            except InputError as error:
                listed = "`medcam nnunet info --json`"
                raise InputError(str(error).replace("medcam.get_layers(model)", listed)) from error


def folds_of(text: str) -> Any:
    """Return the folds of ``--folds``: one, several, or a word."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return parts if len(parts) > 1 else text.strip()


def _row(
    trained: TrainedModel,
    case: Case,
    options: dict[str, Any],
    output: Path,
    saving: dict[str, Any],
) -> dict[str, Any]:
    """Explain one case; return its row of the summary, with an error if it failed."""
    import time

    from medcam.errors import MedcamError
    from medcam.explanation.case.claims import claimed_prefix
    from medcam.frameworks import nnunet as framework
    from medcam.frameworks.nnunet.result import recipe_of

    start = time.perf_counter()
    row: dict[str, Any] = {"case": case.name, "status": "failed", "error": None, "files": []}
    if options["progress"]:
        typer.echo(f"{case.name}", err=True)
    try:
        explanation = framework.explain_case(trained, case, **options)
        named = claimed_prefix(output, case.files, stem=case.name, overwrite=saving["overwrite"])
        with named as prefix:
            recipe = recipe_of(explanation, prefix.parent, saving["methods"])
            files = explanation.save(prefix, report=saving["report"], extra={"recipe": recipe})
    except MedcamError as error:
        row["error"] = in_options(str(error))
    except Exception as error:  # noqa: BLE001  # the network's own code may raise any class
        row["error"] = f"{type(error).__name__}: {error}"
    else:
        row.update(status=explanation.status, files=[str(path) for path in files])
        row["prediction"] = explanation.prediction.to_dict()
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def _print(rows: list[dict[str, Any]], output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("case", "status", "seconds", "files")
    for row in rows:
        names = ", ".join(Path(path).name for path in row["files"])
        table.add_row(row["case"], row["status"], f"{row['seconds']}", names)
        if row["error"]:
            typer.echo(f"Error: {row['case']}: {row['error']}", err=True)
    console = Console(file=stdout())
    console.print(table)
    if any(row["files"] for row in rows):
        console.print(f"Results are in {output}/", highlight=False)
