"""``medcam nnunet check``: whether the maps of a trained nnU-Net v2 can be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medcam.cli.check_command import BudgetOption, NetworksOption, SeedOption, SetsOption
from medcam.cli.errors import plain_errors
from medcam.cli.nnunet_command import (
    CheckpointOption,
    DeviceOption,
    FolderOption,
    FoldsOption,
    StepSizeOption,
    TrustOption,
    check_layers,
    folds_of,
)
from medcam.cli.options import methods_of, one_or_several
from medcam.cli.output import echo
from medcam.cli.trust_run import print_check


@plain_errors
def check(
    model: FolderOption,
    image: Annotated[
        Path,
        typer.Option("--input", "-i", help="The first image of a case (case_0000.nii.gz)."),
    ],
    label: Annotated[str, typer.Option("--label", help="The label's name in dataset.json.")],
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="all (default), or as `medcam nnunet explain`."),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            help="stages (default: the last layer of each stage), bottleneck, auto, or a name of "
            "`medcam nnunet info`; may be repeated.",
        ),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="As `medcam nnunet explain`.")
    ] = "predicted",
    folds: FoldsOption = "all",
    tta: Annotated[
        bool, typer.Option("--tta/--no-tta", help="Mirroring; multiplies the cost.")
    ] = False,
    checkpoint: CheckpointOption = "checkpoint_final.pth",
    step_size: StepSizeOption = 0.5,
    prev_stage: Annotated[
        Path | None,
        typer.Option("--prev-stage", help="Cascades: the previous stage's segmentation."),
    ] = None,
    sets: SetsOption = 96,
    networks: NetworksOption = 5,
    budget: BudgetOption = None,
    seed: SeedOption = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Windows at once.")] = 1,
    device: DeviceOption = None,
    trust: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Check whether a label's maps can be trusted, and say which one to use.

    The first of the folds is checked, on one case, see `medcam check`. The
    cost is stated first; nothing is written.
    """
    from medcam.frameworks import nnunet as framework

    trained = framework.load(
        model, folds=folds_of(folds), checkpoint=checkpoint, device=device, tta=tta,
        step_size=step_size, trust=trust,
    )  # fmt: skip
    if layer not in (None, ["stages"]):
        check_layers(trained, layer)
    checked = framework.check_maps(
        trained, image, label, method="all" if method in (None, ["all"]) else methods_of(method),
        layer=one_or_several(layer, "stages"), target=target, tta=tta, prev_stage=prev_stage,
        sets=sets, networks=networks, budget=budget, seed=seed, batch_size=batch_size,
        progress=not as_json,
    )  # fmt: skip
    if as_json:
        echo(json.dumps(checked.to_dict(), indent=1))
    else:
        print_check(checked)
