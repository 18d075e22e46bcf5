"""Convert values to grey and colour: one rule for images, one for maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, unknown_name
from medcam.files.arrays import robust_max, to_array, to_map

POSITIVE = "inferno"  # from black over red to yellow: the brighter, the more attention
SIGNED = "coolwarm"  # blue: against the target; red: for the target; pale: near zero
OPACITY = 0.6  # default opacity of the strongest colour
OPACITY_EXPONENT = 0.7  # below 1, so that values at half the maximum are still clearly coloured
_MIDDLE_GREY = 128 / 255  # exactly representable as a byte


def display_range(image: object) -> NDArray[np.float64]:
    """Return an image of any value range as grey or RGB in [0, 1].

    Grey: the 0.5th to 99.5th percentile of the finite values becomes black to white, by the same
    rule for Hounsfield units, [0, 1], [0, 255] or negative values. Constant images are mid-grey,
    NaN is black. RGB: uint8, or floats within [0, 1], keep their colours exactly; other ranges get
    one window for all three channels. Three equal channels are a grey image.

    Args:
        image: ``[H, W]`` or ``[H, W, 3]``, real numbers of any type.

    Returns:
        An array of the same shape.

    Raises:
        InputError: The image is empty or has another shape.

    Example:
        >>> display_range(np.array([[-1000, -1000, 3000, 3000]])).tolist()
        [[0.0, 0.0, 1.0, 1.0]]
    """
    array = to_array(image, "The image")
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise InputError(f"An image to show is [H, W] or [H, W, 3], not {list(array.shape)}.")
    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    if array.ndim == 3 and not (array == array[..., :1]).all():
        if array.dtype == np.uint8:
            return values / 255
        if finite.size == values.size and finite.min() >= 0 and finite.max() <= 1:
            return values
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 0.0)
    if low == high and finite.size:  # nearly constant: use the full range, so that outliers show
        low, high = finite.min(), finite.max()
    if low == high:
        return np.where(np.isnan(values), 0.0, _MIDDLE_GREY)
    # All terms are halved because high - low would overflow for the largest floats.
    scaled = (np.clip(values, low, high) / 2 - low / 2) / (high / 2 - low / 2)
    return np.nan_to_num(scaled, nan=0.0)


def read_map(attention_map: object, *, signed: bool | None) -> tuple[NDArray[np.float64], bool]:
    """Return the values of a 2D map to draw, and whether the map is signed.

    Args:
        attention_map: ``[H, W]``, finite.
        signed: Whether negative values carry meaning. None: True if there is a negative value.

    Returns:
        The values in float64, because a ratio of two float32 values may overflow; negative values
        of an unsigned map are set to 0. Then whether the map is signed.

    Raises:
        InputError: The map is not 2D, or not finite.

    Example:
        >>> read_map(np.array([[0.0, -3.0]]), signed=None)
        (array([[ 0., -3.]]), True)
    """
    values = to_map(attention_map).astype(np.float64)
    if values.ndim != 2:
        raise InputError(f"A map to draw is [H, W], not {list(values.shape)}.")
    if signed is None:
        signed = bool((values < 0).any())
    return (values if signed else values.clip(min=0)), signed


def scale_map(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a map divided by its robust maximum and clipped to [-1, 1]; 0 stays 0.

    Example:
        >>> scale_map(np.array([[0.0, -3.0, 3.0]])).tolist()
        [[0.0, -1.0, 1.0]]
    """
    return (values / (robust_max(values) or 1.0)).clip(-1, 1)


def colorize(
    scaled: NDArray[np.float64], *, signed: bool, colormap: str | None = None
) -> NDArray[np.float64]:
    """Return the colours of a scaled map, ``[H, W, 3]`` in [0, 1].

    Args:
        scaled: ``[H, W]``, as `scale_map` returns it.
        signed: Whether the colormap spans -1 to 1, with its middle at 0. Otherwise it spans 0 to 1.
        colormap: The name of a matplotlib colormap. None: ``inferno``, or ``coolwarm`` for a
            signed map.

    Raises:
        UnknownNameError: There is no colormap of that name.

    Example:
        >>> colorize(np.array([[0.0, 1.0]]), signed=False, colormap="gray").tolist()
        [[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    """
    from matplotlib import colormaps

    name = colormap or (SIGNED if signed else POSITIVE)
    if name not in colormaps:
        raise unknown_name("Colormap", name, colormaps)
    colours: NDArray[np.float64] = colormaps[name](scaled / 2 + 0.5 if signed else scaled)
    return colours[..., :3]


def to_bytes(picture: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return values in [0, 1] as bytes from 0 to 255, rounded.

    Example:
        >>> to_bytes(np.array([0.0, 0.5, 1.0])).tolist()
        [0, 128, 255]
    """
    return np.rint(picture * 255).astype(np.uint8)
