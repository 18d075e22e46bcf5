"""A gallery: images in the first column, the maps of several methods beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medcam.views.colors import display_range, to_bytes
from medcam.views.overlay import overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TILE = 2.3  # inches


@dataclass(frozen=True)
class Tile:
    """One map in a row of the gallery.

    Attributes:
        title: The method.
        values: The map ``[H, W]``, raw.
        signed: Whether its negative values mean something.
        caption: A line beneath, e.g. a score.
    """

    title: str
    values: NDArray[np.floating]
    signed: bool
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """An image and its maps.

    Attributes:
        title: What the network does.
        image: ``[H, W]``, any range of values.
        mask: The ground truth ``[H, W]``, drawn as a line; None without one.
        tiles: The maps, all on the image's grid.
        aspect: The height of a pixel over its width.
    """

    title: str
    image: NDArray[np.floating]
    mask: NDArray[np.bool_] | None
    tiles: Sequence[Tile]
    aspect: float = 1.0


def gallery(rows: Sequence[Row]) -> Figure:
    """Draws rows of images and their maps, the ground truth as a white line.

    Every map has its own scale, as methods have different units: positive maps from zero to their
    highest values, signed ones symmetric about zero.

    Args:
        rows: The images with their maps; the methods' names are taken from the first row.

    Returns:
        A matplotlib figure, to be restyled or saved.

    Example:
        >>> image = np.random.default_rng(0).random((8, 8))
        >>> figure = gallery([Row("a task", image, image > 0.5, [Tile("gcam", image, False)])])
        >>> len(figure.axes)
        2
    """
    from matplotlib.figure import Figure

    columns = 1 + max(len(row.tiles) for row in rows)
    figure = Figure(figsize=(_TILE * columns, (_TILE + 0.32) * len(rows) + 0.3), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, line in zip(rows, axes, strict=True):
        picture = np.repeat(to_bytes(display_range(row.image))[..., None], 3, axis=2)
        tiles = [Tile("Image", row.image, False, row.title), *row.tiles]
        for axis, tile in zip(line, tiles, strict=False):
            if axis is not line[0]:
                picture = overlay(tile.values, row.image, signed=tile.signed)
            axis.imshow(picture, aspect=row.aspect, interpolation="nearest")
            if row.mask is not None and row.mask.any():
                axis.contour(row.mask, levels=[0.5], colors="white", linewidths=0.9)
            if row is rows[0]:
                axis.set_title(tile.title, fontsize=11)
            axis.text(
                0.5, -0.025, tile.caption, transform=axis.transAxes, ha="center", va="top",
                fontsize=8.5,
            )  # fmt: skip
    return figure
