"""`medcam.nnunet.explain`: a trained folder and images in, maps in the image's geometry out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from medcam.engine.model.layers import LayerLike
from medcam.engine.request import Request
from medcam.engine.windows.ensemble import EnsembleMember, mirrorings
from medcam.engine.windows.plan import ChannelWeights, check_channel_weights
from medcam.engine.windows.run import run_windows
from medcam.engine.windows.tiling import Windows
from medcam.errors import InputError, InputTypeError
from medcam.explanation.explanation import Explanation, explanation_of
from medcam.frameworks.nnunet.cases import Case, case_of
from medcam.frameworks.nnunet.loading import Folds, TrainedModel, load, quiet
from medcam.frameworks.nnunet.preprocessing import Prepared, prepare
from medcam.frameworks.nnunet.result import CaseExplanation, Key
from medcam.frameworks.nnunet.target import Part, aim, check_part, placed
from medcam.maps import AttentionMap
from medcam.methods import Method, MethodLike

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Progress = bool | Callable[[int, int], None]


def explain(
    model_folder: str | os.PathLike[str] | TrainedModel,
    files: Files,
    label: str,
    *,
    method: MethodLike | Iterable[MethodLike] = "gcam",
    layer: LayerLike = "bottleneck",
    target: Part = "predicted",
    folds: Folds = "all",
    checkpoint: str = "checkpoint_final.pth",
    tta: bool = True,
    step_size: float = 0.5,
    channel_weights: ChannelWeights = "window",
    batch_size: int = 1,
    prev_stage: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    trust: bool = False,
    progress: Progress = False,
) -> CaseExplanation:
    """Explains a label of a trained nnU-Net v2 on a case, in the geometry of its image.

    nnU-Net's own code reads, preprocesses and predicts; the segmentation is that of
    ``nnUNetv2_predict``. The maps are stitched over nnU-Net's windows, mirrorings and folds as in
    `medcam.explain_volume`, in float32, resampled as nnU-Net resamples probabilities, and put back
    onto the voxels of the original image.

    Args:
        model_folder: The trained folder (with plans.json), or what `load` gave.
        files: One file per channel; or the first one (``case_0000.nii.gz``).
        label: The name of a label or region in dataset.json.
        method: As in `medcam.explain`.
        layer: A name from ``medcam.get_layers(model.network)``, several, "auto", "full", or
            "bottleneck", the encoder's deepest stage.
        target: "predicted": the mean logit over the voxels predicted as the label; "component":
            over the largest component of these; a file: inside a region, 0/1 on the image's grid;
            ``"point x,y,z"``: at a voxel of the image; ``"mm x,y,z"``: at a place in RAS+ mm.
        folds: "all", a number, several, or "fold_all".
        checkpoint: The file in each fold.
        tta: Mirroring as ``nnUNetv2_predict`` does it, for the prediction and the maps.
        step_size: nnU-Net's tile step size, in window extents.
        channel_weights: As in `medcam.explain_volume`.
        batch_size: How many windows are explained at once.
        prev_stage: The segmentation of a cascade's first stage, on the image's grid.
        device: None: the GPU if there is one.
        trust: Whether the folder may run code, see `load`.
        progress: As in `medcam.explain_volume`.

    Raises:
        InputError: A file, fold, channel or label is missing, or does not fit; the message says
            which.
        MissingPackageError: nnunetv2 is not installed.
    """
    if isinstance(model_folder, TrainedModel):
        model = model_folder
    else:
        model = load(
            model_folder, folds=folds, checkpoint=checkpoint, device=device, tta=tta,
            step_size=step_size, trust=trust,
        )  # fmt: skip
    return explain_case(
        model, case_of(model, files, previous=prev_stage), label, method=method, layer=layer,
        target=target, channel_weights=channel_weights, batch_size=batch_size, progress=progress,
    )  # fmt: skip


def explain_case(
    model: TrainedModel,
    case: Case,
    label: str,
    *,
    method: MethodLike | Iterable[MethodLike] = "gcam",
    layer: LayerLike = "bottleneck",
    target: Part = "predicted",
    channel_weights: ChannelWeights = "window",
    batch_size: int = 1,
    progress: Progress = False,
) -> CaseExplanation:
    """`explain` for a model that is loaded and a case that was found."""
    check(model, label, target, channel_weights, batch_size)
    where = model.bottleneck if layer == "bottleneck" else layer
    request = Request.of(method, layer=where)
    prepared = prepare(model, case)
    chosen = placed(prepared, label, target)  # what does not fit the image is told at once
    data = torch.from_numpy(prepared.data)
    with quiet():
        logits = model.predictor.predict_logits_from_preprocessed_data(data)
        logits = logits.clone()  # made in inference mode
    chosen = chosen or aim(prepared, logits.float(), label, target)
    windows = windows_of(model, data)
    result = run_windows(
        _signed(request),
        lambda: _members(model),
        len(model.folds) * len(mirrorings(model.mirror_axes)),
        data[None],
        windows,
        logits=logits[None],
        gradient=chosen.gradient(windows),
        batch_size=batch_size,
        device=torch.device("cpu"),
        channel_weights=channel_weights,
        progress=progress,
    )
    explanation = explanation_of(result)
    maps: dict[Key, NDArray[np.float32]] = {}
    importance: dict[Key, dict[str, float]] = {}
    for asked in request.methods:
        for key, item in _maps_of(asked, explanation):
            maps[key] = _finished(prepared, asked, item)
            if item.channels is not None:
                importance[key] = _shares(item, _channels(model))
    return CaseExplanation(
        case=case.name,
        label=label,
        status=chosen.status,
        maps=maps,
        segmentation=prepared.segmentation(logits),
        affine=prepared.image.affine,
        explanation=explanation,
        importance=importance,
        _prepared=prepared,
        _methods=request.methods,
    )


def check(
    model: TrainedModel, label: str, target: Part, channel_weights: str, batch_size: int
) -> None:
    """Raises what is wrong with arguments, whatever the case: before the long part.

    Raises:
        InputError: A label, target, pooling or batch size that does not exist.
    """
    if not isinstance(label, str):
        raise InputTypeError(f"label={label!r} is not the name of a label: {list(model.labels)}.")
    model.channel_of(label)
    check_part(target)
    check_channel_weights(channel_weights)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} has to be at least 1.")


def windows_of(model: TrainedModel, data: torch.Tensor) -> Windows:
    """nnU-Net's windows over ``[channels, *grid]``, with its Gaussian in float32."""
    from acvl_utils.cropping_and_padding.padding import pad_nd_image
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    patch = tuple(model.predictor.configuration_manager.patch_size)
    with quiet():
        padded, kept = pad_nd_image(data, patch, "constant", {"value": 0}, True, None)
        slicers = model.predictor._internal_get_sliding_window_slicers(padded.shape[1:])
    weights = compute_gaussian(
        patch, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip
    padding = tuple(
        side
        for part, extent in zip(kept[:0:-1], padded.shape[:0:-1], strict=True)
        for side in (part.start, extent - part.stop)
    )
    return Windows(
        tuple(padded.shape[1:]), tuple(tuple(slicer[1:]) for slicer in slicers), weights,
        padding if any(padding) else (),
    )  # fmt: skip


def _members(model: TrainedModel) -> Iterator[EnsembleMember]:
    try:
        for fold in range(len(model.folds)):
            network = model.with_fold(fold)
            for flips in mirrorings(model.mirror_axes):
                yield EnsembleMember(network, flips, fold)
    finally:
        model.with_fold(0)


def _signed(request: Request) -> Request:
    """The request without last ReLUs: these come after the maps are resampled."""
    return dataclasses.replace(
        request, methods=tuple(m.signed_form() for m in request.methods), several=True
    )


def _maps_of(method: Method, explanation: Explanation) -> list[tuple[Key, AttentionMap]]:
    """Return a method's maps with their keys, ``(method, layer)``."""
    return [
        (key, item)
        for key, item in explanation.maps.items()
        if isinstance(key, tuple) and key[0] == method.name
    ]


def _finished(prepared: Prepared, method: Method, item: AttentionMap) -> NDArray[np.float32]:
    values = prepared.back(item.values[0, 0].numpy())
    return np.maximum(values, 0) if method.rectified and not method.signed else values


def _channels(model: TrainedModel) -> list[str]:
    labels = model.predictor.label_manager.foreground_labels if model.cascaded else []
    return [*model.channel_names, *[f"previous stage, label {label}" for label in labels]]


def _shares(item: AttentionMap, names: Sequence[str]) -> dict[str, float]:
    """Each input channel's share of the magnitude of a map of the input."""
    if item.channels is None:
        raise InputError("Only methods of the input tell channels apart.")
    sums = item.channels[0, 0].abs().flatten(1).sum(1).double()
    total = float(sums.sum()) or 1.0
    return {name: float(value) / total for name, value in zip(names, sums, strict=True)}
