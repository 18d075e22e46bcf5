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

_TILE, _CAPTION, _TOP, _SIDE = 2.3, 0.25, 0.3, 0.6  # inches


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
    highest values, signed ones symmetric about zero and cut at the 98th percentile of their
    magnitude.

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
    width, height = _TILE * columns + _SIDE, (_TILE + _CAPTION) * len(rows) + _TOP
    figure = Figure(figsize=(width, height), dpi=150)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(
        left=_SIDE / width, right=1 - 0.05 / width, bottom=_CAPTION / height,
        top=1 - _TOP / height, wspace=0.04, hspace=_CAPTION / _TILE,
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for row, line in zip(rows, axes, strict=True):
        picture = np.repeat(to_bytes(display_range(row.image))[..., None], 3, axis=2)
        caption = "" if row.mask is None else "white line: ground truth"
        tiles = [Tile("Image", row.image, False, caption), *row.tiles]
        for axis, tile in zip(line, tiles, strict=False):
            if axis is not line[0]:
                picture = overlay(_visible(tile), row.image, signed=tile.signed)
            axis.imshow(picture, aspect=row.aspect, interpolation="nearest")
            if row.mask is not None and row.mask.any():
                axis.contour(row.mask, levels=[0.5], colors="white", linewidths=0.9)
            if row is rows[0]:
                axis.set_title(tile.title, fontsize=11)
            where = {"transform": axis.transAxes, "ha": "center", "fontsize": 9}
            axis.text(0.5, -0.03, tile.caption, va="top", **where)
        line[0].text(
            -0.06, 0.5, row.title, transform=line[0].transAxes, ha="right", va="center",
            rotation=90, fontsize=11, linespacing=1.4, multialignment="center",
        )  # fmt: skip
    return figure


def _visible(tile: Tile) -> NDArray[np.floating]:
    """The map; a signed one cut at a high percentile, since single voxels stand far out."""
    if not tile.signed or not tile.values.any():
        return tile.values
    top = np.percentile(np.abs(tile.values[tile.values != 0]), 98)
    return np.asarray(tile.values.clip(-top, top))
