"""``medcam explain``: a model and an image file in, maps on the image's grid out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medcam.cli.errors import speaks_plainly
from medcam.cli.model import (
    ArgOption,
    ModelOption,
    TrustOption,
    WeightsOption,
    brings_weights,
    load_model,
)
from medcam.cli.numbers import extents
from medcam.cli.options import prepared, read, target_of, truth_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from medcam.explanation.explanation import Explanation
    from medcam.files import Image


@speaks_plainly
def explain(
    model: ModelOption,
    image: Annotated[
        list[Path],
        typer.Option(
            "--image",
            "-i",
            help="The image: NIfTI, NRRD, MHA, PNG, JPEG, TIFF or .npy. Given several times: files "
            "of one channel each, in the order of the channels.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the results.")],
    arg: ArgOption = None,
    weights: WeightsOption = None,
    trust: TrustOption = False,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="gcam (default), gbp, ...; may be given several times."),
    ] = None,
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
            "'voxel 40,52,30 2', or 'region mask.nii.gz 2'.",
        ),
    ] = "predicted",
    select: Annotated[
        str | None,
        typer.Option("--select", help="Which part of the model's output: an index or a key."),
    ] = None,
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
            "--channel-weights", help="Grad-CAM's in windows: of each window, or of the volume."
        ),
    ] = "window",
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
            help="What each channel goes through first: none, zscore (mean 0, deviation 1), "
            "unit (minimum 0, maximum 1) or 255 (divided by 255).",
        ),
    ] = "none",
    prepare: Annotated[
        str | None,
        typer.Option(
            "--prepare",
            metavar="MODULE:FUNCTION",
            help="Your own preprocessing: from the array [channels, *space] to another on the same "
            "grid.",
        ),
    ] = None,
    volume: Annotated[
        int | None, typer.Option("--volume", help="Which volume of a 4D image, from 0.")
    ] = None,
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
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, ...; default: the GPU, if any.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="A page to open in a browser.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Explains an image: raw float32 maps on its grid, a picture, a page.

    The image reaches the model as [1, channels, *space], float32, in the
    file's own values and order of axes; --scale or --prepare bring it to what
    the model was trained on. The maps take the geometry of the image.
    """
    import torch

    from medcam.engine.model.devices import usable_device
    from medcam.engine.model.layers import find

    made = load_model(model, weights=weights, trust=trust, args=arg or [])
    if weights is None and not brings_weights(model):
        typer.echo(
            f"Warning: without --weights the model has those that {model} gives it: random ones, "
            "if it does not load its own.",
            err=True,
        )
    where = usable_device(device)  # what is wrong is said before the long part
    find(made, _several(layer, "auto"))
    found = read(image, volume, as_channels)
    truth = None if mask is None else truth_of(mask, found)
    inputs = torch.from_numpy(prepared(found, scale, prepare))[None]
    options: dict[str, Any] = {
        "method": _several(method, "gcam"),
        "layer": _several(layer, "auto"),
        "target": target_of(target, found),
        "output": int(select) if select is not None and select.lstrip("-").isdigit() else select,
    }
    explanation = _explain(
        made.to(where),
        inputs,
        where,
        roi,
        slice_axis,
        {"overlap": overlap, "mode": mode, "channel_weights": channel_weights},
        options,
        not as_json,
    )
    prefix = output / _stem(image[0])
    windows = roi is not None or slice_axis is not None  # their output is the logits themselves
    predicted = _segmentation(explanation, None if windows else options["output"], found)
    settings = {
        "model": model, "arg": arg, "weights": weights and weights.name, "target": target,
        "method": method, "layer": layer, "select": select, "roi": roi, "overlap": overlap,
        "mode": mode, "channel_weights": channel_weights, "slice_axis": slice_axis, "scale": scale,
        "prepare": prepare, "volume": volume, "channels": as_channels,
    }  # fmt: skip
    files = explanation.save(
        prefix, image=found, model=made, mask=truth, segmentation=predicted,
        scores=_scores(explanation, truth), report=report,
        extra={"options": {k: v for k, v in settings.items() if v is not None}},
    )  # fmt: skip
    said = {
        "target": str(explanation.target),
        "layer": explanation.layer,
        "details": dict(explanation.details),
        "files": [str(path) for path in files],
    }
    if as_json:
        typer.echo(json.dumps(said, indent=1, default=list))
        return
    typer.echo(f"explained  {explanation.target}")
    layers = [explanation.layer] if isinstance(explanation.layer, str) else explanation.layer
    typer.echo(f"layer      {', '.join(layers or ['none: a map of the input'])}")
    for path in files:
        typer.echo(f"written    {path}")
    for item in explanation.maps.values():
        if not item.values.any():
            named = item.method if item.layer is None else f"{item.method} of {item.layer}"
            typer.echo(
                f"Note: the map ({named}) is zero everywhere: nothing there speaks for the target. "
                "--method hirescam keeps the sign.",
                err=True,
            )


def _explain(
    model: Any,
    inputs: Tensor,
    device: Any,
    roi: str | None,
    slice_axis: int | None,
    windows: dict[str, Any],
    options: dict[str, Any],
    progress: bool,
) -> Explanation:
    from medcam.errors import InputError, MedcamError, MedcamWarning
    from medcam.explanation.call import explain as explain_once
    from medcam.explanation.volume import explain_volume

    try:
        if roi is None and slice_axis is None:
            return explain_once(model, inputs.to(device), **options)
        size = extents(roi, "--roi") if roi is not None else -1
        return explain_volume(
            model, inputs, size, slice_axis=slice_axis, progress=progress, **windows, **options
        )  # fmt: skip
    except (MedcamError, MedcamWarning):
        raise
    except Exception as error:  # their model may raise anything
        reason = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
        raise InputError(
            f"The model does not run on an input of shape {list(inputs.shape)}: "
            f"{type(error).__name__}: {reason}. Does it need extents that are multiples of its "
            "stride (--roi 64 64 64), another number of channels (--image several times), or "
            "slices (--slice-axis)?"
        ) from error


def _segmentation(explanation: Explanation, selector: Any, image: Image) -> NDArray[Any] | None:
    """What the model predicts, if it is a segmentation on the image's grid."""
    from medcam.engine.model import outputs

    logits = outputs.select(explanation.output, selector, batch=1, space=image.space)
    if tuple(logits.shape[2:]) != image.space:
        return None
    predicted = logits.argmax(1) if logits.shape[1] > 1 else (logits > 0)[:, 0]
    labels: NDArray[Any] = predicted[0].cpu().numpy()
    return labels


def _scores(explanation: Explanation, truth: NDArray[Any] | None) -> list[dict[str, Any]]:
    """A row for each map: how it lies to the truth."""
    if truth is None:
        return []
    from medcam.evaluation import METRICS as KNOWN_METRICS
    from medcam.evaluation import compute_score
    from medcam.methods import METHODS

    rows = []
    for item in explanation.maps.values():
        for number, values in enumerate(item.attention()[0]):
            row: dict[str, Any] = {
                "Method": METHODS[item.method].title, "Layer": item.layer or "(input)",
            }  # fmt: skip
            if item.values.shape[1] > 1:
                row["Target"] = number
            for metric in ("wioa", "relevance_mass", "pointing_game"):
                score = float(compute_score(values.cpu().numpy(), truth, metric))
                row[KNOWN_METRICS[metric].title] = score
            row["By chance"] = float(truth.mean())
            rows.append(row)
    return rows


def _several(given: list[str] | None, default: str) -> str | list[str]:
    if not given:
        return default
    return given[0] if len(given) == 1 else given


def _stem(path: Path) -> str:
    from medcam.files import safe_name

    name = path.name
    for ending in (".nii.gz", path.suffix):
        if ending and name.lower().endswith(ending.lower()):
            name = name[: -len(ending)]
            break
    return safe_name(name)
