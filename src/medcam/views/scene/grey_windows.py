"""Grey windows: which values are drawn black and white."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CT = {  # level and width in Hounsfield units
    "Soft tissue": (40, 400),
    "Lung": (-600, 1500),
    "Bone": (400, 1800),
    "Brain": (40, 80),
}
_ENOUGH = 2_000_000  # values that a percentile needs


@dataclass(frozen=True)
class GreyWindow:
    """A range of grey values.

    Attributes:
        name: Its name.
        low: The value that is black.
        high: The value that is white; above ``low``.
    """

    name: str
    low: float
    high: float


def grey_windows(image: NDArray[Any], *, modality: str | None) -> list[GreyWindow]:
    """Return the windows to choose from, the one to open with first.

    CT: soft tissue, lung, bone, brain. All others: the 0.5th to 99.5th percentile of the finite
    values. Colour pictures of bytes, or of floats within [0, 1], keep their colours.

    Args:
        image: The image.
        modality: ``"CT"``, another one, or None: CT if the values look like Hounsfield units.

    Example:
        >>> grey_windows(np.arange(1001.0), modality="MR")[0]
        GreyWindow(name='Automatic', low=5.0, high=995.0)
    """
    finite = image if image.dtype.kind in "bui" else image[np.isfinite(image)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    full = GreyWindow("Full range", *_apart(low, high))
    if image.ndim == 3 and image.shape[2] == 3:
        if image.dtype == np.uint8:
            return [GreyWindow("As stored", 0.0, 255.0), full]
        if low >= 0 and high <= 1:
            return [GreyWindow("As stored", 0.0, 1.0), full]
    some = finite.reshape(-1)[:: max(finite.size // _ENOUGH, 1)]
    inner = np.percentile(some, (0.5, 99.5)) if finite.size else (low, high)
    start, end = float(inner[0]), float(inner[1])
    automatic = GreyWindow("Automatic", start, end) if start < end else full
    own = [automatic] if automatic is full else [automatic, full]
    if is_ct(image, modality=modality):
        presets = [
            GreyWindow(name, at - width / 2, at + width / 2) for name, (at, width) in _CT.items()
        ]
        return presets + own
    return own


def is_ct(image: NDArray[Any], *, modality: str | None) -> bool:
    """Whether grey values are Hounsfield units: said so, or air and soft tissue where CT has them.

    Example:
        >>> is_ct(np.array([-1000.0] * 5 + [40.0] * 5), modality=None)
        True
        >>> is_ct(np.array([-1000.0] * 5 + [40.0] * 5), modality="MR")
        False
    """
    if modality is not None:
        return modality.strip().upper() == "CT"
    some = image.reshape(-1)[:: max(image.size // _ENOUGH, 1)]
    air = ((some >= -1050) & (some <= -900)).mean()
    tissue = ((some >= -150) & (some <= 150)).mean()
    return bool(air > 0.01 and tissue > 0.01)


def _apart(low: float, high: float) -> tuple[float, float]:
    return (low, high) if low < high else (low - 0.5, low + 0.5)
