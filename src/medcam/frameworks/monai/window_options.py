"""The settings of MONAI's sliding-window inferers as options of `medcam.explain_volume`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.inferers.inferer import SliceInferer, SlidingWindowInferer
from monai.utils.enums import BlendMode, PytorchPadMode
from monai.utils.misc import ensure_tuple_rep, fall_back_tuple


def explain_volume_options(inferer: SlidingWindowInferer, space: Sequence[int]) -> dict[str, Any]:
    """Return the options with which `medcam.explain_volume` uses the inferer's windows.

    Args:
        inferer: The inferer. Its ``sw_device`` has no counterpart: windows are moved to the
            network's device.
        space: The volume's spatial shape.
    """
    slice_axis, roi = None, fall_back_tuple(inferer.roi_size, space)
    if isinstance(inferer, SliceInferer):
        # Its call extends roi_size by the slice axis; orig_roi_size stays two-dimensional.
        slice_axis, roi = inferer.spatial_dim, inferer.orig_roi_size

    def per_window_axis(value: Any) -> list[float]:
        values = list(ensure_tuple_rep(value, len(space)))
        if slice_axis is None:
            return values
        return values[:slice_axis] + values[slice_axis + 1 :]

    return {
        "roi_size": tuple(roi),
        "overlap": per_window_axis(inferer.overlap),
        "mode": BlendMode(inferer.mode).value,
        "sigma_scale": per_window_axis(inferer.sigma_scale),
        "padding_mode": PytorchPadMode(inferer.padding_mode).value,
        "cval": inferer.cval,
        "sw_batch_size": inferer.sw_batch_size,
        "slice_axis": slice_axis,
        "progress": inferer.progress,
    }
