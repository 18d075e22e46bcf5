"""A gallery: images in the first column, maps of several methods beside, scores beneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcam.demo.gallery_table import ScoreTable, draw_table, table_inches
from medcam.files import write_atomically
from medcam.views.colors import POSITIVE, SIGNED, display_range, to_bytes
from medcam.views.overlays import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TILE, _GAP, _SIDE, _EDGE = 2.0, 0.05, 0.55, 0.1  # inches
_TITLES, _KEY = 0.32, 0.5  # inches: the methods' names above the tiles, the key beneath them
_DPI = 180
_DARK, _GREY, _LETTER = "#1b2027", "#5b6470", "#ffd479"
# Not the user's settings, and letters that come with matplotlib: the same picture everywhere.
_STYLE: list[str | dict[str, Any] | Path] = ["default", {"font.family": "DejaVu Sans"}]


@dataclass(frozen=True, eq=False)
class Tile:
    """One map in a row of the gallery.

    Attributes:
        title: The method.
        values: The map ``[H, W]``, raw.
        signed: Whether its negative values mean something.
    """

    title: str
    values: NDArray[np.floating]
    signed: bool


@dataclass(frozen=True, eq=False)
class Row:
    """An image and its maps.

    Attributes:
        title: What the network does.
        image: ``[H, W]``, any range of values.
        mask: The ground truth ``[H, W]``, drawn as a line; None without one.
        tiles: The maps, all on the image's grid.
        note: A smaller line beside the title.
        aspect: The height of a pixel over its width.
        sides: Letters for the left and the right of the image, e.g. ``("R", "L")``.
    """

    title: str
    image: NDArray[np.floating]
    mask: NDArray[np.bool_] | None
    tiles: Sequence[Tile]
    note: str = ""
    aspect: float = 1.0
    sides: tuple[str, str] | None = None


def gallery(rows: Sequence[Row], table: ScoreTable | None = None) -> Figure:
    """Draws rows of images and their maps on square tiles, the ground truth as a white line.

    Every map has its own scale, as methods have different units: positive maps from zero to their
    highest values, signed ones symmetric about zero and cut at the 98th percentile of their
    magnitude.

    Args:
        rows: The images with their maps; the methods' names are taken from the first row.
        table: Scores to print beneath; None without.

    Returns:
        A matplotlib figure, to be restyled or saved; `save_gallery` makes the same bytes each time.

    Example:
        >>> image = np.random.default_rng(0).random((8, 8))
        >>> figure = gallery([Row("a task", image, image > 0.5, [Tile("gcam", image, False)])])
        >>> [axes.get_title() for axes in figure.axes if axes.get_title()]
        ['Image', 'gcam']
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    columns = 1 + max(len(row.tiles) for row in rows)
    width = _SIDE + columns * (_TILE + _GAP) - _GAP + _EDGE
    tiles_high = len(rows) * (_TILE + _GAP) - _GAP
    beneath = 0.0 if table is None else table_inches(table)
    height = _TITLES + tiles_high + _KEY + beneath
    with style.context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")

        def place(left: float, top: float, wide: float, high: float) -> Axes:
            """Axes at so many inches from the left and from the top."""
            return figure.add_axes(
                (left / width, 1 - (top + high) / height, wide / width, high / height)
            )

        for number, row in enumerate(rows):
            top = _TITLES + number * (_TILE + _GAP)
            line = [
                place(_SIDE + column * (_TILE + _GAP), top, _TILE, _TILE)
                for column in range(1 + len(row.tiles))
            ]
            _draw_row(line, row, titled=number == 0)
        _draw_key(place(_SIDE, _TITLES + tiles_high, width - _SIDE - _EDGE, _KEY), rows)
        if table is not None:
            at = _TITLES + tiles_high + _KEY
            draw_table(place(_EDGE, at, width - 2 * _EDGE, beneath), table)
    return figure


def save_gallery(path: Path, figure: Figure) -> Path:
    """Saves a gallery as PNG: the same bytes for the same pixels, without time or version.

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

    with style.context(_STYLE):
        return write_atomically(
            path,
            lambda new: figure.savefig(new, format="png", dpi=_DPI, metadata={"Software": None}),
        )


def _draw_row(line: Sequence[Axes], row: Row, *, titled: bool) -> None:
    picture = np.repeat(to_bytes(display_range(row.image))[..., None], 3, axis=2)
    pictures = [("Image", picture)] + [
        (tile.title, overlay(_visible(tile), row.image, signed=tile.signed)) for tile in row.tiles
    ]
    for axes, (title, shown) in zip(line, pictures, strict=True):
        axes.imshow(shown, aspect=row.aspect, interpolation="bicubic")
        if row.mask is not None and row.mask.any():
            axes.contour(row.mask, levels=[0.5], colors="white", linewidths=0.7)
        _square(axes, row)
        if titled:
            axes.set_title(title, fontsize=11, color=_DARK, pad=6)
    for x, side in zip((0.035, 0.965), row.sides or (), strict=False):
        line[0].text(
            x, 0.5, side, transform=line[0].transAxes, ha="center", va="center", fontsize=8.5,
            color=_LETTER, weight="bold",
        )  # fmt: skip
    for x, text, size, colour in ((-0.19, row.title, 11, _DARK), (-0.07, row.note, 8.5, _GREY)):
        line[0].text(
            x, 0.5, text, transform=line[0].transAxes, rotation=90, ha="center", va="center",
            fontsize=size, color=colour,
        )  # fmt: skip


def _square(axes: Axes, row: Row) -> None:
    """Shows the picture in the middle of a black square."""
    high, wide = row.image.shape[0] * row.aspect, float(row.image.shape[1])
    side = max(high, wide)
    axes.set_xlim(wide / 2 - side / 2 - 0.5, wide / 2 + side / 2 - 0.5)
    middle, half = row.image.shape[0] / 2 - 0.5, side / row.aspect / 2
    axes.set_ylim(middle + half, middle - half)
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_key(axes: Axes, rows: Sequence[Row]) -> None:
    """What the line and the colours are."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    small: dict[str, Any] = {"fontsize": 8.5, "color": _GREY, "va": "center"}
    if any(row.mask is not None for row in rows):
        axes.fill([0, 0.03, 0.03, 0], [0.42, 0.42, 0.78, 0.78], color="black", lw=0)
        axes.plot([0.004, 0.026], [0.6, 0.6], color="white", lw=1.2)
        axes.text(0.038, 0.6, "ground truth", **small)
    signs = {tile.signed for row in rows for tile in row.tiles}
    ramp = np.linspace(0, 1, 256)[None]
    for signed, left, low, high in (
        (False, 0.33, "0", "attention, to each map's maximum"),
        (True, 0.79, "against", "for the target"),
    ):
        if signed in signs:
            axes.imshow(
                ramp, cmap=SIGNED if signed else POSITIVE, aspect="auto",
                extent=(left, left + 0.1, 0.48, 0.72),
            )  # fmt: skip
            axes.text(left - 0.006, 0.6, low, ha="right", **small)
            axes.text(left + 0.106, 0.6, high, **small)
    axes.set(xlim=(0, 1), ylim=(0, 1))


def _visible(tile: Tile) -> NDArray[np.floating]:
    """The map; a signed one cut at a high percentile, since single voxels stand far out."""
    if not tile.signed or not tile.values.any():
        return tile.values
    top = np.percentile(np.abs(tile.values[tile.values != 0]), 98)
    return np.asarray(tile.values.clip(-top, top))
