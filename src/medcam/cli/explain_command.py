"""``medcam explain``: a model and an image file in, maps on the image's grid out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medcam.cli.check_command import AlsoOption, BudgetOption
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
    MethodOption,
    NameOption,
    OverwriteOption,
    PlacementOption,
    RegionsOption,
    VolumeOption,
    check_name,
    note_other_name,
    read_mask_on,
)
from medcam.cli.output import echo
from medcam.cli.prediction import (
    ClassesOption,
    NamedClasses,
    ProbabilitiesOption,
    TruthOption,
    said_of,
    segmentation_of,
)
from medcam.cli.trust_run import check_written, images_to_check, print_check

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medcam.explanation.explanation import Explanation
    from medcam.explanation.predicted import Prediction
    from medcam.trust import TrustCheck


@plain_errors
def explain(
    model: ModelOption,
    image: Annotated[
        list[Path],
        typer.Option(
            "--image",
            "-i",
            help="The image: NIfTI, NRRD, MHA, PNG, JPEG, TIFF or .npy. Repeated: files of one "
            "channel each, in the order of the channels.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the results.")],
    name: NameOption = None,
    overwrite: OverwriteOption = False,
    arg: ArgOption = None,
    weights: WeightsOption = None,
    trust: TrustOption = False,
    method: MethodOption = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer", help="auto (default), full, or a name of `medcam layers`; may be repeated."
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="predicted, best, all, a class (2), 'channel 2' (its whole channel), "
            "'value 0' (of a regression), 'contrast 2 1' (class 2 rather than 1), "
            "'voxel 40,52,30 2', or 'region mask.nii.gz 2'.",
        ),
    ] = "predicted",
    regions: RegionsOption = False,
    select: SelectOption = None,
    roi: Annotated[
        str | None,
        typer.Option(
            "--roi",
            metavar="X Y [Z]",
            help="The extents of sliding windows, e.g. --roi 96 96 96. Without it the model sees "
            "the whole image at once.",
        ),
    ] = None,
    overlap: Annotated[float, typer.Option("--overlap", help="Of the windows, in [0, 1).")] = 0.25,
    mode: Annotated[str, typer.Option("--mode", help="Window weights: gaussian or constant.")] = (
        "gaussian"
    ),
    channel_weights: Annotated[
        str,
        typer.Option(
            "--channel-weights", help="Grad-CAM's in windows: once for the volume, or of each."
        ),
    ] = "volume",
    placement: PlacementOption = "features",
    slice_axis: Annotated[
        int | None,
        typer.Option(
            "--slice-axis", help="Run a 2D model slice by slice along this axis (0, 1, 2)."
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            "--scale",
            help="How each channel is scaled: none, zscore (mean 0, deviation 1), unit (minimum 0, "
            "maximum 1) or 255 (divided by 255).",
        ),
    ] = "none",
    prepare: Annotated[
        str | None,
        typer.Option(
            "--prepare",
            metavar="MODULE:FUNCTION",
            help="Your own preprocessing: from [channels, *space] to an array on the same grid.",
        ),
    ] = None,
    volume: VolumeOption = None,
    as_channels: Annotated[
        bool | None,
        typer.Option(
            "--channels/--slices",
            help="What the volumes of a 4D image or the pages of a TIFF are.",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="The truth, 0/1 on the image's grid: drawn, and scored."),
    ] = None,
    classes: ClassesOption = None,
    probabilities: ProbabilitiesOption = "auto",
    true_class: TruthOption = None,
    device: DeviceOption = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Check whether these maps can be trusted, see `medcam check`."
        ),
    ] = False,
    also: AlsoOption = None,
    budget: BudgetOption = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="A page to open in a browser.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Explain an image: raw float32 maps on its grid, a picture, a page.

    The image reaches the model as [1, channels, *space], float32, in the
    file's own values and order of axes; --scale or --prepare bring it to what
    the model was trained on. The maps take the geometry of the image.
    """
    from medcam.cli.recipe import recipe_of
    from medcam.explanation.case.claims import claimed_prefix, stem_of

    options = ImageOptions(
        model=model, image=tuple(image), arg=tuple(arg or ()), weights=weights,
        method=tuple(method or ()), layer=tuple(layer or ()), target=target, regions=regions,
        select=select, roi=roi, overlap=overlap, mode=mode, channel_weights=channel_weights,
        placement=placement, slice_axis=slice_axis, scale=scale, prepare=prepare, volume=volume,
        channels=as_channels,
    )  # fmt: skip
    ready = get_ready(options, trust=trust, device=device)
    original = ready.original
    named = NamedClasses.read(classes, probabilities, true_class)
    check_name(output, image, name, overwrite)
    truth = None if mask is None else read_mask_on(mask, original)
    images = images_to_check(ready, also or ()) if check else ready.inputs
    explanation = ready.explain(progress=not as_json)
    selector = None if options.in_windows else options.selector
    predicted = segmentation_of(explanation, selector, original)
    said, failure = said_of(explanation, selector, original, named)
    extra: dict[str, Any] = {"options": options.recorded}
    if said is not None:
        extra["prediction"] = said.to_dict()
    checked, stop = None, None
    if check:
        checked, stop = check_written(
            ready, images, explanation, progress=not as_json, regions=regions, budget=budget
        )
    if checked is not None:
        seen = [path.name for path in [*image, *(also or [])]]
        extra["check"] = {**checked.to_dict(), "files": seen}
    recipe = recipe_of(options, output, trust=trust)
    with claimed_prefix(output, image, name=name, overwrite=overwrite) as prefix:
        note_other_name(prefix, name or stem_of(image[0]))
        files = explanation.save(
            prefix, image=original, model=ready.network, mask=truth, segmentation=predicted,
            scores=_scores(explanation, truth), report=report,
            extra={**extra, "recipe": recipe},
        )  # fmt: skip
    _print(explanation, prefix.name, image, files, checked, said, as_json=as_json)
    for error in (stop, failure):
        if error is not None:
            raise error


def _print(
    explanation: Explanation,
    name: str,
    images: list[Path],
    files: list[Path],
    checked: TrustCheck | None,
    said: Prediction | None,
    *,
    as_json: bool,
) -> None:
    """Print what was explained and written, for people or for programs."""
    if as_json:
        summary = {
            "name": name,
            "image": [str(path) for path in images],
            "target": str(explanation.target),
            "layer": explanation.layer,
            "details": dict(explanation.details),
            "files": [str(path) for path in files],
        }
        if said is not None:
            summary["prediction"] = said.to_dict()
        if checked is not None:
            summary["check"] = checked.to_dict()
        echo(json.dumps(summary, indent=1, default=list))
        return
    if said is not None:
        echo(f"predicted  {said}")
    echo(f"explained  {explanation.target}")
    layers = [explanation.layer] if isinstance(explanation.layer, str) else explanation.layer
    echo(f"layer      {', '.join(layers or ['none: a map of the input'])}")
    for path in files:
        echo(f"written    {path}")
    if checked is not None:
        print_check(checked)


def _scores(explanation: Explanation, truth: NDArray[Any] | None) -> list[dict[str, Any]]:
    """Return a row of scores against the mask for each map; no rows without a mask."""
    if truth is None:
        return []
    from medcam.errors import warn
    from medcam.evaluation import METRICS, compute_score
    from medcam.evaluation.chance import below_chance, below_chance_message

    rows = []
    for item in explanation.maps.values():
        for number, values in enumerate(item.attention()[0]):
            row: dict[str, Any] = {"Method": item.title, "Layer": item.layer or "(input)"}
            if item.values.shape[1] > 1:
                row["Target"] = number
            for metric in ("wioa", "relevance_mass", "pointing_game"):
                score = float(compute_score(values.cpu().numpy(), truth, metric))
                row[METRICS[metric].title] = score
            row["By chance"] = float(truth.mean())
            mass = METRICS["relevance_mass"].title
            if below_chance(row[mass], row["By chance"]):
                what = f"{item.title} of layer {item.layer!r}" if item.layer else item.title
                warn(below_chance_message(what, mass.lower(), row[mass], row["By chance"]))
            rows.append(row)
    return rows
