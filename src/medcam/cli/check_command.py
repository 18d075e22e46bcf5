"""``medcam check``: whether the maps of a model can be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medcam.cli.errors import plain_errors
from medcam.cli.image_run import ImageOptions, get_ready
from medcam.cli.model import (
    ArgOption,
    DeviceOption,
    ModelOption,
    SelectOption,
    TrustOption,
    WeightsOption,
)
from medcam.cli.options import (
    RegionsOption,
    VolumeOption,
    methods_of,
    one_or_several,
    target_of,
)
from medcam.cli.output import echo
from medcam.cli.trust_run import check_ready, images_to_check, print_check

AlsoOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--also",
        help="An image of another patient, prepared as the first; may be repeated. Maps of unlike "
        "images are compared: with one image the mirrored one takes their place.",
    ),
]
"""``--also``, as every command that checks takes it."""

BudgetOption = Annotated[
    int | None,
    typer.Option(
        "--budget",
        help="The most forward passes to spend; sets and networks are cut to fit, and it is said "
        "what that costs in certainty.",
    ),
]
"""``--budget``."""

SetsOption = Annotated[int, typer.Option("--sets", help="Random sets of blocks (T4).")]
NetworksOption = Annotated[
    int, typer.Option("--networks", help="Networks with permuted weights (T2).")
]
SeedOption = Annotated[int, typer.Option("--seed", help="The seed of all random numbers.")]


@plain_errors
def check(
    model: ModelOption,
    image: Annotated[
        list[Path],
        typer.Option("--image", "-i", help="The image, as `medcam explain` takes it."),
    ],
    also: AlsoOption = None,
    arg: ArgOption = None,
    weights: WeightsOption = None,
    trust: TrustOption = False,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="all (default), or as `medcam explain`; may be repeated."),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            help="stages (default: the last layer of each stage), auto, or a name of `medcam "
            "layers`; may be repeated.",
        ),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="As `medcam explain`, but one class or region.")
    ] = "predicted",
    against: Annotated[
        str | None,
        typer.Option("--against", help="The target to tell it from; default: the next class."),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Check a segmented class as a whole, not its components."),
    ] = False,
    regions: RegionsOption = False,
    select: SelectOption = None,
    roi: Annotated[
        str | None,
        typer.Option("--roi", metavar="X Y [Z]", help="The extents of sliding windows."),
    ] = None,
    overlap: Annotated[float, typer.Option("--overlap", help="Of the windows, in [0, 1).")] = 0.25,
    scale: Annotated[
        str, typer.Option("--scale", help="none, zscore, unit or 255, as `medcam explain`.")
    ] = "none",
    prepare: Annotated[
        str | None,
        typer.Option("--prepare", metavar="MODULE:FUNCTION", help="Your own preprocessing."),
    ] = None,
    volume: VolumeOption = None,
    as_channels: Annotated[
        bool | None,
        typer.Option("--channels/--slices", help="What the volumes of a 4D image are."),
    ] = None,
    sets: SetsOption = 96,
    networks: NetworksOption = 5,
    budget: BudgetOption = None,
    seed: SeedOption = 0,
    artefact: Annotated[
        bool,
        typer.Option(
            "--artefact",
            help="Teach a copy of the network a planted marker, and say which maps find it.",
        ),
    ] = False,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Check whether a model's maps can be trusted, and say which one to use.

    Five criteria: the map knows the image, repeats, knows the weights, knows
    the target, and is faithful. The cost is stated first; nothing is written.
    """
    options = ImageOptions(
        model=model, image=tuple(image), arg=tuple(arg or ()), weights=weights, target=target,
        regions=regions, select=select, roi=roi, overlap=overlap, scale=scale, prepare=prepare,
        volume=volume, channels=as_channels,
    )  # fmt: skip
    ready = get_ready(options, trust=trust, device=device)
    methods = "all" if method in (None, ["all"]) else methods_of(method)
    other = None if against is None else target_of(against, ready.original, regions=regions)
    checked = check_ready(
        ready, images_to_check(ready, also or ()), progress=not as_json, method=methods,
        layer=one_or_several(layer, "stages"), against=other,
        parts="whole" if whole else "auto", regions=regions, sets=sets, networks=networks,
        budget=budget, seed=seed, artefact=artefact,
    )  # fmt: skip
    if as_json:
        echo(json.dumps(checked.to_dict(), indent=1))
    else:
        print_check(checked)
