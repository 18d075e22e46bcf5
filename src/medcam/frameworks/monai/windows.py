"""The settings of MONAI's sliding-window inferers as options of `medcam.explain_volume`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.inferers.inferer import SliceInferer, SlidingWindowInferer
from monai.utils.enums import BlendMode, PytorchPadMode
from monai.utils.misc import ensure_tuple_rep, fall_back_tuple


def window_options(inferer: SlidingWindowInferer, space: Sequence[int]) -> dict[str, Any]:
    """The options with which `explain_volume` lays the windows that this inferer lays.

    Args:
        inferer: The inferer. Its ``sw_device`` has no counterpart: windows go where the network
            is.
        space: The volume's spatial shape.
    """
    axis, roi = None, fall_back_tuple(inferer.roi_size, space)
    if isinstance(inferer, SliceInferer):  # its roi_size grows by the slice when it is called
        axis, roi = inferer.spatial_dim, inferer.orig_roi_size

    def per_axis(value: Any) -> list[float]:
        values = list(ensure_tuple_rep(value, len(space)))
        return values if axis is None else values[:axis] + values[axis + 1 :]

    return {
        "roi_size": tuple(roi),
        "overlap": per_axis(inferer.overlap),
        "mode": BlendMode(inferer.mode).value,
        "sigma_scale": per_axis(inferer.sigma_scale),
        "padding_mode": PytorchPadMode(inferer.padding_mode).value,
        "cval": inferer.cval,
        "sw_batch_size": inferer.sw_batch_size,
        "slice_axis": axis,
        "progress": inferer.progress,
    }
