"""From numbers to grey and colour: one rule for images, one for maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, unknown_name
from medcam.files.arrays import robust_max, to_array, to_map

POSITIVE = "inferno"  # black, red, yellow: more light is more attention
SIGNED = "coolwarm"  # blue is against the target, red is for it, pale is nothing
OPACITY = 0.6  # of the strongest colour
RISE = 0.7  # exponent of the opacity; below 1, so that half the maximum is still a colour
_MIDDLE = 128 / 255  # a grey that a byte can hold


def display_range(image: object) -> NDArray[np.float64]:
    """Gives an image of any value range as grey or RGB in [0, 1].

    Grey: the 0.5th to 99.5th percentile of the finite values becomes black to white, the same for
    Hounsfield units, [0, 1], [0, 255] or negative values. Constant images are mid-grey, NaN is
    black. RGB: uint8, or floats within [0, 1], keep their colours exactly; other ranges get one
    window for all three channels. Three equal channels are a grey image.

    Args:
        image: ``[H, W]`` or ``[H, W, 3]``, real numbers of any type.

    Returns:
        The same shape.

    Example:
        >>> display_range(np.array([[-1000, -1000, 3000, 3000]])).tolist()
        [[0.0, 0.0, 1.0, 1.0]]
    """
    given = to_array(image, "The image")
    if given.size == 0 or not (given.ndim == 2 or (given.ndim == 3 and given.shape[2] == 3)):
        raise InputError(f"An image to show is [H, W] or [H, W, 3], not {list(given.shape)}.")
    values = given.astype(np.float64)
    finite = values[np.isfinite(values)]
    if given.ndim == 3 and not (given == given[..., :1]).all():
        if given.dtype == np.uint8:
            return values / 255
        if finite.size == values.size and finite.min() >= 0 and finite.max() <= 1:
            return values
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 0.0)
    if low == high and finite.size:  # almost all of one value: show what differs
        low, high = finite.min(), finite.max()
    if low == high:
        return np.where(np.isnan(values), 0.0, _MIDDLE)
    # Halved, so that the span of the largest floats does not overflow.
    shown = (np.clip(values, low, high) / 2 - low / 2) / (high / 2 - low / 2)
    return np.nan_to_num(shown, nan=0.0)


def read_map(attention_map: object, *, signed: bool | None) -> tuple[NDArray[np.float64], bool]:
    """Gives the values of a 2D map to draw, and whether it is signed.

    Args:
        attention_map: ``[H, W]``, finite.
        signed: Whether negative values mean something. None: whether there is one.

    Returns:
        The values, in float64 (no ratio of two float32 numbers overflows there); negative ones of a
        map that is not signed are 0.

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
    """Gives a map in units of its own robust maximum, cut to [-1, 1]; 0 stays 0.

    Example:
        >>> scale_map(np.array([[0.0, -3.0, 3.0]])).tolist()
        [[0.0, -1.0, 1.0]]
    """
    return (values / (robust_max(values) or 1.0)).clip(-1, 1)


def colorize(
    scaled: NDArray[np.float64], *, signed: bool, colormap: str | None = None
) -> NDArray[np.float64]:
    """Gives the colours of a scaled map, ``[H, W, 3]`` in [0, 1].

    Args:
        scaled: ``[H, W]`` as :func:`scale_map` gives it.
        signed: -1 to 1 spans the colormap, 0 is its middle; else 0 to 1 spans it.
        colormap: A name of matplotlib's. None: ``inferno``, or ``coolwarm`` for a signed map.

    Raises:
        UnknownNameError: No colormap of that name.

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
    """Gives [0, 1] as 0 to 255, rounded.

    Example:
        >>> to_bytes(np.array([0.0, 0.5, 1.0])).tolist()
        [0, 128, 255]
    """
    return np.rint(picture * 255).astype(np.uint8)
