"""What a case has to be before nnU-Net preprocesses it: channels, previous stage, memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError
from medcam.files.memory import require_memory
from medcam.frameworks.nnunet.cases import Case
from medcam.frameworks.nnunet.trained_model import TrainedModel


def check_previous_stage(model: TrainedModel, case: Case) -> None:
    """Raise unless the case has a previous stage's segmentation exactly for a cascade."""
    if model.cascaded and case.previous is None:
        raise InputError(
            f"This network is the second stage of a cascade: it needs the segmentation of "
            f"'{model.cascaded}' for '{case.name}'. Predict it with nnUNetv2_predict -c "
            f"{model.cascaded}, and pass it as prev_stage= (--prev-stage)."
        )
    if not model.cascaded and case.previous is not None:
        raise InputError(
            "This network is no cascade and takes no previous stage's segmentation: leave out "
            "prev_stage= (--prev-stage)."
        )


def check_channels(model: TrainedModel, case: Case, channels: NDArray[Any]) -> None:
    """Raise unless the image has the network's number of channels, and finite values."""
    names = model.channel_names
    if len(channels) != len(names):
        files = ", ".join(f"'{path.name}'" for path in case.files)
        raise InputError(
            f"{files}: {len(channels)} channel(s); the network needs {len(names)}: "
            f"{', '.join(names)}."
        )
    if not np.isfinite(channels).all():
        raise InputError(f"The image of '{case.name}' holds NaN or infinite values.")
    if not channels.any():
        raise InputError(f"The image of '{case.name}' is zero everywhere.")


def check_grid(
    model: TrainedModel, case: Case, channels: NDArray[Any], spacing: Sequence[float]
) -> None:
    """Raise if the network's grid would not fit into this machine's memory."""
    target = model.spacing
    transposed = [(channels.shape[1:][i], spacing[i]) for i in model.plans.transpose_forward]
    voxels = float(len(channels))
    for (extent, size), new_size in zip(transposed[::-1], target[::-1], strict=False):
        voxels *= max(extent * size / new_size, 1)
    windows = math.prod(map(float, model.patch_size)) * len(channels)
    needed = 4 * int(min(max(voxels, windows), 1e18))
    require_memory(needed, f"'{case.name}', with the plans' voxels of {target} mm,")


def read_previous(reader: Any, path: str, channels: NDArray[Any]) -> NDArray[Any]:
    """Return the segmentation from a cascade's first stage, in reader order."""
    try:
        segmentation = np.asarray(reader.read_seg(path)[0])
    except Exception as error:  # readers raise exceptions of any class
        raise InputError(
            f"The previous stage's segmentation '{path}' cannot be read: {error}"
        ) from error
    if segmentation.shape[1:] != channels.shape[1:]:
        raise InputError(
            f"The previous stage's segmentation '{path}' has the shape {segmentation.shape[1:]}, "
            f"the image {channels.shape[1:]}."
        )
    return segmentation


def unreadable(case: Case, error: Exception, printed: str) -> str:
    """Return the message for files that nnU-Net cannot read; it may have printed the reason."""
    reason = str(error) or " ".join(printed.split())
    files = ", ".join(f"'{path}'" for path in case.files)
    return f"nnU-Net cannot read {files}: {reason}"
