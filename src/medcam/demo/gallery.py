"""Gallery: one row per image, with its maps by several methods; the scores are below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcam.demo.gallery_table import ScoreTable, draw_table, table_height
from medcam.files import write_atomically
from medcam.views.colors import POSITIVE, SIGNED, display_range, to_bytes
from medcam.views.overlays import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Lengths in inches: a tile, the gap between tiles, the left margin with the titles of the rows, the
# margin at the other edges, the titles above the tiles, the colour key below them.
_TILE, _GAP, _LEFT, _MARGIN, _TITLES, _KEY = 2.0, 0.05, 0.55, 0.1, 0.32, 0.5
_DPI = 180
_DARK, _GREY, _SIDE_LETTERS = "#1b2027", "#5b6470", "#ffd479"
_SIGNED_PERCENTILE = 98
# The user's matplotlib settings are ignored and the font comes with matplotlib, so that the picture
# is the same everywhere.
_STYLE: list[str | dict[str, Any] | Path] = ["default", {"font.family": "DejaVu Sans"}]


@dataclass(frozen=True, eq=False)
class GalleryTile:
    """One map in a row of the gallery.

    Attributes:
        title: The name of the method.
        values: The raw map, ``[H, W]``.
        signed: Whether negative values are evidence against the target.
    """

    title: str
    values: NDArray[np.floating]
    signed: bool


@dataclass(frozen=True, eq=False)
class GalleryRow:
    """An image and its maps.

    Attributes:
        title: The title at the left of the row.
        image: The image, ``[H, W]``, in any value range.
        mask: The ground truth, ``[H, W]``, drawn as a contour; None without one.
        tiles: The maps, all on the image's grid.
        note: A smaller line next to the title.
        aspect: The height of a pixel divided by its width.
        sides: The letters at the left and the right edge of the image, e.g. ``("R", "L")``.
    """

    title: str
    image: NDArray[np.floating]
    mask: NDArray[np.bool_] | None
    tiles: Sequence[GalleryTile]
    note: str = ""
    aspect: float = 1.0
    sides: tuple[str, str] | None = None


def draw_gallery(rows: Sequence[GalleryRow], table: ScoreTable | None = None) -> Figure:
    """Draw rows of images and their maps on square tiles, the ground truth as a white contour.

    Each map has its own colour scale, because the methods have different units. Positive maps range
    from zero to their maximum. The scale of signed maps is symmetric about zero and clipped at the
    98th percentile of the non-zero magnitudes.

    Args:
        rows: The images with their maps. The titles of the columns come from the first row.
        table: The table of scores below; None without one.

    Returns:
        A matplotlib figure, to be changed or saved. `save_gallery` writes reproducible bytes.

    Example:
        >>> image = np.random.default_rng(0).random((8, 8))
        >>> tile = GalleryTile("gcam", image, signed=False)
        >>> figure = draw_gallery([GalleryRow("a task", image, image > 0.5, [tile])])
        >>> [axes.get_title() for axes in figure.axes if axes.get_title()]
        ['Image', 'gcam']
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    columns = 1 + max(len(row.tiles) for row in rows)
    figure_width = _LEFT + columns * (_TILE + _GAP) - _GAP + _MARGIN
    tiles_height = len(rows) * (_TILE + _GAP) - _GAP
    key_top = _TITLES + tiles_height
    below_key = 0.0 if table is None else table_height(table)
    figure_height = key_top + _KEY + below_key
    with style.context(_STYLE):
        figure = Figure(figsize=(figure_width, figure_height), dpi=_DPI, facecolor="white")

        def add_axes(left: float, top: float, width: float, height: float) -> Axes:
            """Add axes; the position is in inches from the figure's upper left corner."""
            return figure.add_axes(
                (
                    left / figure_width,
                    1 - (top + height) / figure_height,
                    width / figure_width,
                    height / figure_height,
                )
            )

        for number, row in enumerate(rows):
            top = _TITLES + number * (_TILE + _GAP)
            row_axes = [
                add_axes(_LEFT + column * (_TILE + _GAP), top, _TILE, _TILE)
                for column in range(1 + len(row.tiles))
            ]
            _draw_row(row_axes, row, titled=number == 0)
        _draw_key(add_axes(_LEFT, key_top, figure_width - _LEFT - _MARGIN, _KEY), rows)
        if table is not None:
            table_width = figure_width - 2 * _MARGIN
            draw_table(add_axes(_MARGIN, key_top + _KEY, table_width, below_key), table)
    return figure


def save_gallery(path: Path, figure: Figure) -> Path:
    """Save a gallery as a PNG file without time stamp and version: equal pixels give equal bytes.

    Raises:
        SaveError: The file could not be written.

    Example:
        >>> import tempfile
        >>> from matplotlib.figure import Figure
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_gallery(Path(folder, "gallery.png"), Figure()).name
        'gallery.png'
    """
    from matplotlib import style

    metadata = {"Software": None}
    with style.context(_STYLE):
        return write_atomically(
            path,
            lambda temporary: figure.savefig(temporary, format="png", dpi=_DPI, metadata=metadata),
        )


def _draw_row(row_axes: Sequence[Axes], row: GalleryRow, *, titled: bool) -> None:
    grey = np.repeat(to_bytes(display_range(row.image))[..., None], 3, axis=2)
    pictures = [("Image", grey)] + [
        (tile.title, overlay(_clipped(tile), row.image, signed=tile.signed)) for tile in row.tiles
    ]
    for axes, (title, picture) in zip(row_axes, pictures, strict=True):
        axes.imshow(picture, aspect=row.aspect, interpolation="bicubic")
        if row.mask is not None and row.mask.any():
            axes.contour(row.mask, levels=[0.5], colors="white", linewidths=0.7)
        _make_square(axes, row)
        if titled:
            axes.set_title(title, fontsize=11, color=_DARK, pad=6)
    first = row_axes[0]
    for x, side in zip((0.035, 0.965), row.sides or (), strict=False):
        first.text(
            x, 0.5, side, transform=first.transAxes, ha="center", va="center", fontsize=8.5,
            color=_SIDE_LETTERS, weight="bold",
        )  # fmt: skip
    for x, text, size, color in ((-0.19, row.title, 11, _DARK), (-0.07, row.note, 8.5, _GREY)):
        first.text(
            x, 0.5, text, transform=first.transAxes, rotation=90, ha="center", va="center",
            fontsize=size, color=color,
        )  # fmt: skip


def _make_square(axes: Axes, row: GalleryRow) -> None:
    """Centre the picture in a black square."""
    height, width = row.image.shape[0] * row.aspect, float(row.image.shape[1])
    side = max(height, width)
    axes.set_xlim(width / 2 - side / 2 - 0.5, width / 2 + side / 2 - 0.5)
    middle, half = row.image.shape[0] / 2 - 0.5, side / row.aspect / 2
    axes.set_ylim(middle + half, middle - half)
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_key(axes: Axes, rows: Sequence[GalleryRow]) -> None:
    """Draw the key of the contour and of the colours."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    small: dict[str, Any] = {"fontsize": 8.5, "color": _GREY, "va": "center"}
    if any(row.mask is not None for row in rows):
        axes.fill([0, 0.03, 0.03, 0], [0.42, 0.42, 0.78, 0.78], color="black", lw=0)
        axes.plot([0.004, 0.026], [0.6, 0.6], color="white", lw=1.2)
        axes.text(0.038, 0.6, "ground truth", **small)
    kinds = {tile.signed for row in rows for tile in row.tiles}
    ramp = np.linspace(0, 1, 256)[None]
    for signed, left, low, high in (
        (False, 0.33, "0", "attention, to each map's maximum"),
        (True, 0.79, "against", "for the target"),
    ):
        if signed in kinds:
            axes.imshow(
                ramp, cmap=SIGNED if signed else POSITIVE, aspect="auto",
                extent=(left, left + 0.1, 0.48, 0.72),
            )  # fmt: skip
            axes.text(left - 0.006, 0.6, low, ha="right", **small)
            axes.text(left + 0.106, 0.6, high, **small)
    axes.set(xlim=(0, 1), ylim=(0, 1))  # imshow changed the limits


def _clipped(tile: GalleryTile) -> NDArray[np.floating]:
    """Return the map; a signed one is clipped, as single extreme values would fade the rest."""
    if not tile.signed or not tile.values.any():
        return tile.values
    top = np.percentile(np.abs(tile.values[tile.values != 0]), _SIGNED_PERCENTILE)
    return np.asarray(tile.values.clip(-top, top))
