"""Draw slices in advance: previews shown until a page's data is unpacked, and thumbnails."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.views.colors import OPACITY, OPACITY_EXPONENT, POSITIVE, SIGNED
from medcam.views.scene.grey_windows import GreyWindow
from medcam.views.scene.grid import Grid, Plane
from medcam.views.scene.values import SceneMap


def lookup_table(*, signed: bool) -> NDArray[np.uint8]:
    """Return the 256 colours of a map, ``[256, 3]``.

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
    voxel: tuple[int, int, int],
    image: NDArray[Any],
    window: GreyWindow,
    scene_map: SceneMap | None,
) -> NDArray[np.uint8]:
    """Return one slice as the page first shows it, one pixel per voxel, ``[H, W, 3]``.

    Args:
        plane: The plane of the slice.
        grid: The grid.
        voxel: The indices on the grid of a voxel in the slice.
        image: The image in its stored order.
        window: The values drawn black and white.
        scene_map: The map; None: draw only the image.
    """
    index = voxel[plane.through]
    grey = plane.slice_of(grid.arrange(image), index).astype(np.float64)
    grey = np.nan_to_num(
        grey, nan=window.low, posinf=window.low, neginf=window.low
    )  # not finite: black
    shares = ((grey - window.low) / (window.high - window.low)).clip(0, 1)
    picture = np.rint(shares * 255)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    if scene_map is not None and plane.shows != "image":
        values = plane.slice_of(grid.arrange(scene_map.values), index).astype(np.float64)
        scaled = (values / scene_map.scale_top).clip(-1 if scene_map.signed else 0, 1)
        entries = ((scaled / 2 + 0.5 if scene_map.signed else scaled) * 256).astype(int)
        colours = lookup_table(signed=scene_map.signed)[entries.clip(max=255)]
        alpha = 1.0
        if plane.shows == "overlay":
            alpha = np.abs(scaled[..., None]) ** OPACITY_EXPONENT * OPACITY
        picture = picture + alpha * (colours - picture)
    drawn: NDArray[np.uint8] = np.rint(picture).astype(np.uint8)
    return drawn


def to_png(picture: NDArray[np.uint8], *, aspect: float, side: int) -> str:
    """Return a picture as a PNG data URI, resized so that its pixels are square.

    Args:
        picture: ``[H, W, 3]``.
        aspect: The height of a pixel divided by its width.
        side: The longer side of the PNG, in pixels.
    """
    from PIL import Image

    height, width = picture.shape[0] * aspect, picture.shape[1] * 1.0
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    shrinks = size[0] < picture.shape[1] or size[1] < picture.shape[0]
    resampling = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    file = io.BytesIO()
    Image.fromarray(picture).resize(size, resampling).save(file, format="PNG", compress_level=4)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
