"""`medcam.nnunet.check_maps`: whether the maps of a trained folder can be trusted."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

from medcam import targets
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.undo import undoing
from medcam.engine.progress import Progress
from medcam.engine.target.resolution import TargetLike
from medcam.engine.windows.ensemble import mirrorings
from medcam.errors import InputError, foreign_errors
from medcam.frameworks.nnunet.cases import Files, case_from_files
from medcam.frameworks.nnunet.loading import Folds, loaded
from medcam.frameworks.nnunet.prediction import nnunet_windows
from medcam.frameworks.nnunet.preprocessing import prepare
from medcam.frameworks.nnunet.target import Part, check_part, resolve_fixed
from medcam.frameworks.nnunet.trained_model import TrainedModel
from medcam.methods import MethodLike
from medcam.trust import TrustCheck
from medcam.trust.assessment import Options, check_subject
from medcam.trust.plan import NETWORKS, SETS
from medcam.trust.subject import InWindows


@undoing
def check_maps(
    model_folder: str | os.PathLike[str] | TrainedModel,
    files: Files,
    label: str,
    *,
    method: MethodLike | Iterable[MethodLike] = "all",
    layer: LayerLike = "stages",
    target: Part = "predicted",
    folds: Folds = "all",
    checkpoint: str = "checkpoint_final.pth",
    tta: bool = False,
    step_size: float = 0.5,
    prev_stage: str | os.PathLike[str] | None = None,
    sets: int = SETS,
    networks: int = NETWORKS,
    noises: int = 0,
    budget: int | None = None,
    seed: int = 0,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    trust: bool = False,
    progress: Progress = False,
) -> TrustCheck:
    """Check whether the maps of a label can be trusted, on a case, see `medcam.check`.

    The first fold is checked, on nnU-Net's own grid and in its own windows: each fold is a network
    of its own. A label is checked by its two largest components, or halves of the only one.

    Args:
        model_folder: As in `explain`.
        files: As in `explain`.
        label: As in `explain`.
        method: "all", or as in `explain`.
        layer: "stages" for the last layer of each stage; or as in `explain`.
        target: "predicted" or "component": the largest components, one by one; or a region, a point
            or a place, as in `explain`.
        folds: As in `explain`; the first one of these is checked.
        checkpoint: As in `explain`.
        tta: Whether the prediction is the mean over mirrored windows. That multiplies the cost.
        step_size: As in `explain`.
        prev_stage: As in `explain`.
        sets: As in `medcam.check`.
        networks: As in `medcam.check`.
        noises: As in `medcam.check`.
        budget: As in `medcam.check`.
        seed: As in `medcam.check`.
        batch_size: As in `explain`.
        device: As in `explain`.
        trust: As in `explain`.
        progress: As in `medcam.check`.

    Raises:
        InputError: An argument or a file does not fit; the message says which.
        MissingPackageError: nnunetv2 is not installed.
    """
    model = loaded(
        model_folder, folds=folds, checkpoint=checkpoint, device=device, tta=tta,
        step_size=step_size, trust=trust,
    )  # fmt: skip
    channel = model.channel_of(label)
    check_part(target)
    case = case_from_files(model, files, previous=prev_stage)
    with foreign_errors(f"'{case.name}' cannot be prepared for this network"):
        prepared = prepare(model, case)
    part = resolve_fixed(prepared, label, target)
    data = torch.from_numpy(prepared.data)
    flips = mirrorings(model.mirror_axes) if tta else [()]
    subject = InWindows(
        model.with_fold(0), data[None], nnunet_windows(model, data), flips, batch_size=batch_size
    )
    classes = model.label_manager.num_segmentation_heads
    number = channel if classes > 1 else channel + 1  # one channel z is the two classes -z and z
    chosen: TargetLike = number
    if part is not None:
        if part.status == "absent":
            raise InputError(f"{part.description} has no voxel on the network's grid.")
        chosen = targets.region(torch.from_numpy(part.voxels)[None], number)
    elif model.has_regions and classes > 1:
        chosen = targets.region_class(channel)
    return check_subject(
        subject,
        Options(
            method, model.named_layers(layer), chosen,
            regions=model.has_regions, spacing=prepared.grid_spacing, sets=sets, networks=networks,
            noises=noises, budget=budget, seed=seed, progress=progress,
        ),
    )  # fmt: skip
