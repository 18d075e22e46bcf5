"""`medcam.nnunet.explain`: a trained folder and images in, maps on the images' grids out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from medcam.engine.model.layers import LayerLike
from medcam.engine.model.undo import undoing
from medcam.engine.progress import Progress
from medcam.engine.request import Placement, Request
from medcam.engine.windows.plan import ChannelWeights, check_channel_weights
from medcam.engine.windows.run import run_windows
from medcam.errors import InputError, InputTypeError, foreign_errors
from medcam.explanation.explanation import Explanation, explanation_of
from medcam.frameworks.nnunet.cases import Case, Files, case_from_files
from medcam.frameworks.nnunet.loading import Folds, loaded
from medcam.frameworks.nnunet.prediction import (
    ensemble_members,
    member_count,
    nnunet_windows,
    predict_logits,
)
from medcam.frameworks.nnunet.preprocessing import Prepared, prepare
from medcam.frameworks.nnunet.recipe import call_of
from medcam.frameworks.nnunet.result import CaseExplanation, CaseMapKey
from medcam.frameworks.nnunet.target import Part, check_part, resolve, resolve_fixed
from medcam.frameworks.nnunet.trained_model import TrainedModel
from medcam.maps import AttentionMap
from medcam.methods import Method, MethodLike


def explain(
    model_folder: str | os.PathLike[str] | TrainedModel,
    files: Files,
    label: str,
    *,
    method: MethodLike | Iterable[MethodLike] = "auto",
    layer: LayerLike = "auto",
    target: Part = "predicted",
    folds: Folds = "all",
    checkpoint: str = "checkpoint_final.pth",
    tta: bool = True,
    step_size: float = 0.5,
    channel_weights: ChannelWeights = "volume",
    placement: Placement = "features",
    batch_size: int = 1,
    prev_stage: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    trust: bool = False,
    progress: Progress = False,
) -> CaseExplanation:
    """Explain a label of a trained nnU-Net v2 on a case, on the grid of its image.

    nnU-Net's own code reads, preprocesses and predicts; the segmentation is that of
    ``nnUNetv2_predict``. The maps are stitched over nnU-Net's windows, mirrorings and folds as in
    `medcam.explain_volume`, in float32, resampled as nnU-Net resamples probabilities, and put back
    onto the voxels of the original image.

    Args:
        model_folder: The trained folder (with plans.json), or the result of `load`.
        files: One file per channel; or the first one (``case_0000.nii.gz``).
        label: The name of a label or region in dataset.json.
        method: As in `medcam.explain`.
        layer: A name from ``medcam.get_layers(model.network)``, several, "auto", "full", or
            "bottleneck", the encoder's deepest stage.
        target: "predicted": the mean logit over the voxels predicted as the label; "component":
            over the largest component of these; a file: inside a region, 0/1 on the image's grid;
            ``"point x,y,z"``: at a voxel of the image; ``"mm x,y,z"``: at a place in RAS+ mm.
        folds: "all", a number, several, or "fold_all".
        checkpoint: The name of the checkpoint file in each fold.
        tta: Mirroring as ``nnUNetv2_predict`` does it, for the prediction and the maps.
        step_size: nnU-Net's tile step size, in window extents.
        channel_weights: As in `medcam.explain_volume`.
        placement: As in `medcam.explain`.
        batch_size: The number of windows that are explained at once.
        prev_stage: The segmentation from a cascade's first stage, on the image's grid.
        device: The network's device; None: the GPU if there is one.
        trust: Whether the folder may run code, see `load`.
        progress: As in `medcam.explain_volume`.

    Raises:
        InputError: A file, fold, channel or label is missing, or does not fit; the message says
            which.
        MissingPackageError: nnunetv2 is not installed.
    """
    model = loaded(
        model_folder, folds=folds, checkpoint=checkpoint, device=device, tta=tta,
        step_size=step_size, trust=trust,
    )  # fmt: skip
    return explain_case(
        model, case_from_files(model, files, previous=prev_stage), label, method=method,
        layer=layer, target=target, channel_weights=channel_weights, placement=placement,
        batch_size=batch_size, progress=progress,
    )  # fmt: skip


@undoing
def explain_case(
    model: TrainedModel,
    case: Case,
    label: str,
    *,
    method: MethodLike | Iterable[MethodLike] = "auto",
    layer: LayerLike = "auto",
    target: Part = "predicted",
    channel_weights: ChannelWeights = "volume",
    placement: Placement = "features",
    batch_size: int = 1,
    progress: Progress = False,
) -> CaseExplanation:
    """Explain a label as `explain` does, for a model and a case that are already loaded.

    Args:
        model: The result of `load`.
        case: An item of `find_cases`.
        label: As in `explain`.
        method: As in `explain`.
        layer: As in `explain`.
        target: As in `explain`.
        channel_weights: As in `explain`.
        placement: As in `explain`.
        batch_size: As in `explain`.
        progress: As in `explain`.

    Raises:
        InputError: An argument or a file of the case does not fit.
    """
    check(model, label, target, channel_weights, batch_size)
    layer = layer if isinstance(layer, str) or layer is None else list(layer)
    request = Request.of(method, layer=model.named_layers(layer), placement=placement)
    call = call_of(
        label, request.methods, layer, target, channel_weights=channel_weights,
        placement=placement, batch_size=batch_size,
    )  # fmt: skip
    with foreign_errors(f"'{case.name}' cannot be prepared for this network"):
        prepared = prepare(model, case)
    # Before the prediction, so that a part outside the image is reported at once.
    voxel_target = resolve_fixed(prepared, label, target)
    data = torch.from_numpy(prepared.data)
    logits = predict_logits(model, data, case.name)
    voxel_target = voxel_target or resolve(prepared, logits.float(), label, target)
    windows = nnunet_windows(model, data)
    voxel_target = dataclasses.replace(voxel_target, regions=model.has_regions)
    gradient = voxel_target.score_gradient(windows)
    request = request.for_target(gradient.target)
    result = run_windows(
        _in_signed_form(request),
        lambda: ensemble_members(model),
        member_count(model),
        data[None],
        windows,
        logits=logits[None],
        gradient=gradient,
        batch_size=batch_size,
        device=torch.device("cpu"),
        channel_weights=channel_weights,
        progress=progress,
    )
    explanation = explanation_of(result)
    maps: dict[CaseMapKey, NDArray[np.float32]] = {}
    importance: dict[CaseMapKey, dict[str, float]] = {}
    for requested in request.methods:
        for key, item in _maps_of(requested, explanation):
            maps[key] = _on_image_grid(prepared, requested, item)
            if item.channels is not None:
                importance[key] = _channel_shares(item, _channel_names(model))
    return CaseExplanation(
        case=case.name,
        label=label,
        status=voxel_target.status,
        maps=maps,
        segmentation=prepared.segmentation_from(logits),
        affine=prepared.image.affine,
        explanation=explanation,
        importance=importance,
        _prepared=prepared,
        _methods=request.methods,
        _call=call,
    )


def check(
    model: TrainedModel, label: str, target: Part, channel_weights: str, batch_size: int
) -> None:
    """Raise if an argument of `explain` is wrong for every case, before the first one is read.

    Raises:
        InputError: A label, target, kind of channel weights or batch size that does not exist.
    """
    if not isinstance(label, str):
        raise InputTypeError(f"label={label!r} is not the name of a label: {list(model.labels)}.")
    model.channel_of(label)
    check_part(target)
    check_channel_weights(channel_weights)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} has to be at least 1.")


def _in_signed_form(request: Request) -> Request:
    """Return the request without the methods' last ReLUs, which follow after resampling."""
    return dataclasses.replace(
        request, methods=tuple(m.signed_form() for m in request.methods), several=True
    )


def _maps_of(method: Method, explanation: Explanation) -> list[tuple[CaseMapKey, AttentionMap]]:
    """Return a method's maps with their keys, ``(method, layer)``."""
    return [
        ((method.name, item.layer), item)
        for key, item in explanation.maps.items()
        if isinstance(key, tuple) and key[0] == method.name
    ]


def _on_image_grid(
    prepared: Prepared, requested: Method, item: AttentionMap
) -> NDArray[np.float32]:
    """Return a map on the image's grid, with the ReLU that the requested method ends in."""
    values = prepared.to_image_grid(item.values[0, 0].numpy())
    return np.maximum(values, 0) if requested.rectified and not requested.signed else values


def _channel_names(model: TrainedModel) -> list[str]:
    """Return the names of all input channels, those of a cascade's previous stage included."""
    labels = model.foreground_labels if model.cascaded else []
    return [*model.channel_names, *[f"previous stage, label {label}" for label in labels]]


def _channel_shares(item: AttentionMap, names: Sequence[str]) -> dict[str, float]:
    """Return each input channel's share of the magnitude of a map of the input."""
    if item.channels is None:
        raise InputError("Only methods of the input tell channels apart.")
    sums = item.channels[0, 0].abs().flatten(1).sum(1).double()
    total = float(sums.sum()) or 1.0
    return {name: float(value) / total for name, value in zip(names, sums, strict=True)}
