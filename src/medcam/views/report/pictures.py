"""Pictures drawn ahead: what a page shows before its data is unpacked, and thumbnails."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.views.colors import OPACITY, POSITIVE, RISE, SIGNED
from medcam.views.scene.grey_windows import GreyWindow
from medcam.views.scene.grid import Grid, Plane
from medcam.views.scene.values import SceneMap


def lookup_table(*, signed: bool) -> NDArray[np.uint8]:
    """Gives the 256 colours of maps, ``[256, 3]``.

    Example:
        >>> lookup_table(signed=False)[0].tolist()
        [0, 0, 3]
    """
    from matplotlib import colormaps

    table: NDArray[np.uint8] = colormaps[SIGNED if signed else POSITIVE](np.arange(256), bytes=True)
    return table[:, :3]


def draw_slice(
    plane: Plane,
    grid: Grid,
    at: tuple[int, int, int],
    image: NDArray[Any],
    window: GreyWindow,
    shown: SceneMap | None,
) -> NDArray[np.uint8]:
    """Gives one slice as the page first shows it, one pixel a voxel, ``[H, W, 3]``.

    Args:
        plane: Which one.
        grid: The grid it is of.
        at: The indices of a voxel in it, on the grid.
        image: As stored.
        window: What is black and white.
        shown: The map; None draws the image alone.
    """
    grey = _cut(grid.arrange(image), plane, at).astype(np.float64)
    shares = ((grey - window.low) / (window.high - window.low)).clip(0, 1)
    picture = np.rint(np.nan_to_num(shares) * 255)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    if shown is not None and plane.shows != "image":
        values = _cut(grid.arrange(shown.values), plane, at).astype(np.float64)
        scaled = (values / shown.scale_top).clip(-1 if shown.signed else 0, 1)
        places = ((scaled / 2 + 0.5 if shown.signed else scaled) * 256).astype(int).clip(max=255)
        colours = lookup_table(signed=shown.signed)[places]
        alpha = np.abs(scaled[..., None]) ** RISE * OPACITY if plane.shows == "overlay" else 1.0
        picture = picture + alpha * (colours - picture)
    drawn: NDArray[np.uint8] = np.rint(picture).astype(np.uint8)
    return drawn


def to_png(picture: NDArray[np.uint8], *, aspect: float, side: int) -> str:
    """Gives a picture as a data URI, with square pixels.

    Args:
        picture: ``[H, W, 3]``.
        aspect: The height of a pixel over its width.
        side: The longer side, in pixels.
    """
    from PIL import Image

    height, width = picture.shape[0] * aspect, picture.shape[1] * 1.0
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    shrinks = size[0] < picture.shape[1] or size[1] < picture.shape[0]
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    file = io.BytesIO()
    Image.fromarray(picture).resize(size, how).save(file, format="PNG", compress_level=4)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _cut(volume: NDArray[Any], plane: Plane, at: tuple[int, int, int]) -> NDArray[Any]:
    """Gives rows and columns (and channels) of a slice, as they are on the screen."""
    rows: NDArray[Any] = np.take(volume, at[plane.through], axis=plane.through).swapaxes(0, 1)
    rows = rows[:, ::-1] if plane.mirrored else rows
    return rows[::-1] if plane.raised else rows
