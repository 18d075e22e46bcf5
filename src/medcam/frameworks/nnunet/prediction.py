"""nnU-Net's prediction of a case: its logits, its windows, its folds and mirrorings."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.engine.model.undo import Step
from medcam.engine.windows.ensemble import EnsembleMember, mirrorings
from medcam.engine.windows.tiling import Windows
from medcam.errors import NoMapError, foreign_errors
from medcam.frameworks.nnunet.console import prints_to_log
from medcam.frameworks.nnunet.trained_model import TrainedModel


def predict_logits(
    model: TrainedModel, data: Float[Tensor, "channels *grid"], case: str
) -> Float[Tensor, "classes *grid"]:
    """Return nnU-Net's own logits, stitched over windows and averaged over folds and mirrorings.

    Raises:
        NoMapError: The network cannot be run, or its logits are not finite.
    """
    failed = foreign_errors(f"nnU-Net's prediction of '{case}' fails", kind=NoMapError)
    with prints_to_log(), failed:
        logits: Tensor = model.predictor.predict_logits_from_preprocessed_data(data)
    if not bool(logits.isfinite().all()):
        bad = int((~logits.isfinite()).any(0).sum())
        raise NoMapError(
            f"The logits of '{case}' are NaN or infinite in {bad} of {logits[0].numel()} voxels: "
            "there is no prediction to explain. Are the weights finite (a diverged training), and "
            "does the network fit half precision (on a GPU nnU-Net predicts in float16)?"
        )
    return logits.clone()  # a normal tensor; nnU-Net made the logits in inference mode


def nnunet_windows(model: TrainedModel, data: Float[Tensor, "channels *grid"]) -> Windows:
    """Return nnU-Net's windows over the network's grid, with its Gaussian weights in float32."""
    from acvl_utils.cropping_and_padding.padding import pad_nd_image
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    with prints_to_log():
        padded, inside = pad_nd_image(data, model.patch_size, "constant", {"value": 0}, True, None)
        slicers = model.window_slicers(padded.shape[1:])
    weights = compute_gaussian(
        model.patch_size, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip
    # `torch.nn.functional.pad` takes the last axis first; axis 0 holds the channels.
    padding = tuple(
        side
        for part, extent in zip(inside[:0:-1], padded.shape[:0:-1], strict=True)
        for side in (part.start, extent - part.stop)
    )
    return Windows(
        tuple(padded.shape[1:]), tuple(tuple(slicer[1:]) for slicer in slicers), weights,
        padding if any(padding) else (),
    )  # fmt: skip


def member_count(model: TrainedModel) -> int:
    """Return the number of folds times mirrorings."""
    return len(model.folds) * len(mirrorings(model.mirror_axes))


def ensemble_members(model: TrainedModel) -> Iterator[EnsembleMember]:
    """Yield each fold in each mirroring; afterwards the network holds the first fold again."""

    def restore() -> None:
        model.with_fold(0)

    with Step(restore):
        for fold in range(len(model.folds)):
            network = model.with_fold(fold)
            for flips in mirrorings(model.mirror_axes):
                yield EnsembleMember(network, flips, fold)
