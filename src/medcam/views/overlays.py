"""A map over its image: where the map is zero the image is untouched, hot is hot."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError
from medcam.files.arrays import to_array
from medcam.maps import resample_array
from medcam.views.colors import (
    OPACITY,
    RISE,
    colorize,
    display_range,
    read_map,
    scale_map,
    to_bytes,
)


def overlay(
    attention_map: object,
    raw_input: object = None,
    *,
    signed: bool | None = None,
    colormap: str | None = None,
    opacity: float = OPACITY,
) -> NDArray[np.uint8]:
    """Gives the map in colour over the grey (or RGB) image, at the image's size.

    The colour scale is the map's own: 0 to its robust maximum, symmetric about 0 if it is signed.
    Opacity grows with the magnitude, from none where the map is zero.

    Args:
        attention_map: ``[H, W]``, finite. Resampled to the image.
        raw_input: ``[H, W]``, ``[1, H, W]``, ``[3, H, W]``, ``[H, W, 3]`` or ``[C, H, W]`` (the
            mean of the channels), of any type and value range. Leading axes of length 1 are
            dropped. None: the colours of the map alone, at its own size.
        signed: Whether negative values mean something. None: whether there is one.
        colormap: A name of matplotlib's. None: ``inferno``, or ``coolwarm`` for a signed map.
        opacity: That of the strongest colour, in [0, 1].

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        InputError: NaN in the map, other shapes, or a raw shape that can be read in two ways.
        UnknownNameError: No colormap of that name.

    Example:
        >>> picture = overlay(np.zeros((2, 2)), np.array([[0, 255], [255, 0]]))
        >>> picture[..., 0].tolist()
        [[0, 255], [255, 0]]
    """
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity is between 0 (only the image) and 1, not {opacity}.")
    values, signed = read_map(attention_map, signed=signed)
    if raw_input is None:
        return to_bytes(colorize(scale_map(values), signed=signed, colormap=colormap))
    image = display_range(_as_picture(to_array(raw_input, "The raw input"), values.shape))
    scaled = scale_map(resample_array(values, image.shape[:2]))
    colours = colorize(scaled, signed=signed, colormap=colormap)
    alpha = opacity * np.abs(scaled[..., None]) ** RISE
    if image.ndim == 2:
        image = image[..., None]
    return to_bytes((1 - alpha) * image + alpha * colours)


def grey_picture(attention_map: object, *, signed: bool | None = None) -> NDArray[np.uint8]:
    """Gives the map alone in grey: black is 0, white the robust maximum; signed: mid-grey is 0.

    Args:
        attention_map: ``[H, W]``, finite.
        signed: As in :func:`overlay`.

    Returns:
        uint8 ``[H, W]``.

    Example:
        >>> grey_picture(np.array([[-1.0, 0.0, 1.0]])).tolist()
        [[0, 128, 255]]
    """
    values, signed = read_map(attention_map, signed=signed)
    scaled = scale_map(values)
    return to_bytes(scaled / 2 + 0.5 if signed else scaled)


def _as_picture(raw: NDArray[np.generic], space: tuple[int, ...]) -> NDArray[np.generic]:
    """Gives ``[H, W]`` or ``[H, W, 3]``; the map's shape decides between two readings."""
    while raw.ndim > 3 and raw.shape[0] == 1:
        raw = raw[0]
    if raw.ndim == 2:
        return raw
    if raw.ndim != 3:
        raise InputError(
            f"The raw input of a 2D map is [H, W], [C, H, W] or [H, W, 3], not {list(raw.shape)}."
        )
    first, last = raw.shape[0], raw.shape[2]
    fits_first, fits_last = raw.shape[1:] == space, raw.shape[:2] == space and last in (1, 3)
    if fits_first != fits_last:
        channels_last = fits_last
    elif (first in (1, 3)) != (last in (1, 3)):
        channels_last = last in (1, 3)
    elif first in (1, 3) or last <= 4 < first:
        raise InputError(
            f"The raw input {list(raw.shape)} can be read with its channels first or last: pass it "
            "as [H, W] or [C, H, W] with the map's [H, W], or transpose it so that only one fits."
        )
    else:
        channels_last = False
    if not channels_last:
        raw = np.moveaxis(raw, 0, 2)
    return raw if raw.shape[2] == 3 else raw.mean(axis=2, dtype=np.float64)
