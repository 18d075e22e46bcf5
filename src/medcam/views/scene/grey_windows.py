"""Grey windows: the range of values that is drawn from black to white."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CT_PRESETS = {  # level and width in Hounsfield units
    "Soft tissue": (40, 400),
    "Lung": (-600, 1500),
    "Bone": (400, 1800),
    "Brain": (40, 80),
}
_SUBSET_SIZE = 2_000_000  # about this many values are enough to estimate a percentile


@dataclass(frozen=True)
class GreyWindow:
    """A range of values drawn from black to white.

    Attributes:
        name: The name of the window.
        low: The value drawn black.
        high: The value drawn white; above ``low``.
    """

    name: str
    low: float
    high: float


def grey_windows(image: NDArray[Any], *, modality: str | None) -> list[GreyWindow]:
    """Return the windows to choose from, the default first.

    CT: soft tissue, lung, bone and brain, then, as for all images, the automatic window (the 0.5th
    to 99.5th percentile of the finite values) and the full range. Colour pictures of bytes, or of
    floats within [0, 1], keep their colours by default.

    Args:
        image: The image.
        modality: ``"CT"`` or another one. None: CT if the values look like Hounsfield units.

    Example:
        >>> grey_windows(np.arange(1001.0), modality="MR")[0]
        GreyWindow(name='Automatic', low=5.0, high=995.0)
    """
    finite = image if image.dtype.kind in "bui" else image[np.isfinite(image)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    full = GreyWindow("Full range", *_nonempty_range(low, high))
    if image.ndim == 3 and image.shape[2] == 3:
        if image.dtype == np.uint8:
            return [GreyWindow("As stored", 0.0, 255.0), full]
        if low >= 0 and high <= 1:
            return [GreyWindow("As stored", 0.0, 1.0), full]
    percentiles = np.percentile(_subset(finite), (0.5, 99.5)) if finite.size else (low, high)
    start, end = float(percentiles[0]), float(percentiles[1])
    windows = [GreyWindow("Automatic", start, end), full] if start < end else [full]
    if is_ct(image, modality=modality):
        presets = [
            GreyWindow(name, level - width / 2, level + width / 2)
            for name, (level, width) in _CT_PRESETS.items()
        ]
        return presets + windows
    return windows


def is_ct(image: NDArray[Any], *, modality: str | None) -> bool:
    """Return whether grey values are Hounsfield units.

    Without a modality they are taken for such if more than 1 % of the values each lie where air
    (-1050 to -900) and soft tissue (-150 to 150) have them.

    Example:
        >>> is_ct(np.array([-1000.0] * 5 + [40.0] * 5), modality=None)
        True
        >>> is_ct(np.array([-1000.0] * 5 + [40.0] * 5), modality="MR")
        False
    """
    if modality is not None:
        return modality.strip().upper() == "CT"
    subset = _subset(image)
    air = ((subset >= -1050) & (subset <= -900)).mean()
    tissue = ((subset >= -150) & (subset <= 150)).mean()
    return bool(air > 0.01 and tissue > 0.01)


def _subset(values: NDArray[Any]) -> NDArray[Any]:
    """Return evenly spaced values of a large array, enough for percentiles and shares."""
    return values.reshape(-1)[:: max(values.size // _SUBSET_SIZE, 1)]


def _nonempty_range(low: float, high: float) -> tuple[float, float]:
    """Return the range, or one of width 1 around a single value."""
    return (low, high) if low < high else (low - 0.5, low + 0.5)
