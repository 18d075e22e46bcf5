"""Draw a map over its image: the image is unchanged where the map is zero."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError
from medcam.files.arrays import to_array
from medcam.maps import resample_array
from medcam.views.colors import (
    OPACITY,
    OPACITY_EXPONENT,
    colorize,
    display_range,
    read_map,
    scale_map,
    to_bytes,
)

ChannelOrder = Literal["rgb", "bgr"]
"""The order of an image's three channels; OpenCV's is "bgr"."""


def overlay(
    attention_map: object,
    raw_input: object = None,
    *,
    signed: bool | None = None,
    colormap: str | None = None,
    opacity: float = OPACITY,
    raw_input_order: ChannelOrder = "rgb",
) -> NDArray[np.uint8]:
    """Return the map in colour over the grey (or RGB) image, at the image's size.

    The colour scale is the map's own: from 0 to its robust maximum, or symmetric about 0 if it is
    signed. The opacity grows with the magnitude, from 0 where the map is zero.

    Args:
        attention_map: ``[H, W]``, finite. It is resampled to the image's size.
        raw_input: ``[H, W]``, ``[1, H, W]``, ``[3, H, W]``, ``[H, W, 3]`` or ``[C, H, W]`` (the
            mean of the channels is shown), of any type and value range. Leading axes of length 1
            are dropped. None: return the colours of the map alone, at the map's size.
        signed: Whether negative values carry meaning. None: True if there is a negative value.
        colormap: The name of a matplotlib colormap. None: ``inferno``, or ``coolwarm`` for a
            signed map.
        opacity: The opacity of the strongest colour, in [0, 1].
        raw_input_order: The order of three channels of ``raw_input``: "rgb", or "bgr" as
            ``cv2.imread`` returns them.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        InputError: The map holds NaN, a shape does not fit, or the shape of ``raw_input`` can be
            read in two ways.
        UnknownNameError: There is no colormap of that name.

    Example:
        >>> picture = overlay(np.zeros((2, 2)), np.array([[0, 255], [255, 0]]))
        >>> picture[..., 0].tolist()
        [[0, 255], [255, 0]]
    """
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity is between 0 (only the image) and 1, not {opacity}.")
    check_channel_order(raw_input_order)
    values, signed = read_map(attention_map, signed=signed)
    if raw_input is None:
        return to_bytes(colorize(scale_map(values), signed=signed, colormap=colormap))
    image = display_range(_channels_last(to_array(raw_input, "The raw input"), values.shape))
    if raw_input_order == "bgr" and image.ndim == 3:
        image = image[..., ::-1]
    scaled = scale_map(resample_array(values, image.shape[:2]))
    colours = colorize(scaled, signed=signed, colormap=colormap)
    alpha = opacity * np.abs(scaled[..., None]) ** OPACITY_EXPONENT
    if image.ndim == 2:
        image = image[..., None]
    return to_bytes((1 - alpha) * image + alpha * colours)


def check_channel_order(order: str) -> None:
    """Raise if an order of channels does not exist.

    Raises:
        InputError: It is neither "rgb" nor "bgr".
    """
    if order not in get_args(ChannelOrder):
        raise InputError(
            f"raw_input_order={order!r} does not exist: give 'rgb', or 'bgr' for images of OpenCV."
        )


def grey_picture(attention_map: object, *, signed: bool | None = None) -> NDArray[np.uint8]:
    """Return the map alone in grey: 0 is black and the robust maximum white.

    In a signed map, 0 is mid-grey and the negative maximum black.

    Args:
        attention_map: ``[H, W]``, finite.
        signed: As in `overlay`.

    Returns:
        uint8 ``[H, W]``.

    Example:
        >>> grey_picture(np.array([[-1.0, 0.0, 1.0]])).tolist()
        [[0, 128, 255]]
    """
    values, signed = read_map(attention_map, signed=signed)
    scaled = scale_map(values)
    return to_bytes(scaled / 2 + 0.5 if signed else scaled)


def _channels_last(raw: NDArray[np.generic], map_shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Return the image as ``[H, W]`` or ``[H, W, 3]``.

    Where the channels could be first or last, the reading whose height and width are the map's is
    taken. If both or neither are, the reading with 1 or 3 channels is.
    """
    while raw.ndim > 3 and raw.shape[0] == 1:
        raw = raw[0]
    if raw.ndim == 2:
        return raw
    if raw.ndim != 3:
        raise InputError(
            f"The raw input of a 2D map is [H, W], [C, H, W] or [H, W, 3], not {list(raw.shape)}."
        )
    first, last = raw.shape[0], raw.shape[2]
    fits_channels_first = raw.shape[1:] == map_shape
    fits_channels_last = raw.shape[:2] == map_shape and last in (1, 3)
    if fits_channels_first != fits_channels_last:
        channels_last = fits_channels_last
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
