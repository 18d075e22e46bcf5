"""Rows of panels as a figure: sizes in inches, colours by value, everything to be restyled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medcam.views.colors import POSITIVE, RISE, SIGNED
from medcam.views.montage.panels import Panel, Row, Style, one_line, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_DARK, _GREY = "#222222", "#5c5c5c"
_DPI, _MOST_PIXELS = 150, 30_000  # Agg draws up to 65 535 along an axis
_WIDE, _LEAST = 9.0, 1.3  # inches: all panels of a line; one panel at least
_MOST = (3.0, 2.3)  # one at most: of a figure of one row, of several
_TALL = 1.35  # a panel's height over its width, from which panels are made narrower
_GAP, _EDGE, _BETWEEN = 0.05, 0.1, 0.1
_TITLE, _HEADING, _TOP = 0.135, 0.23, 0.32  # inches of their lines
_BAR, _BAR_ROOM = 0.1, 0.85  # a colour bar's width; the room for it, its numbers and its name
_PER_LETTER = 0.0078  # inches of a letter's width for each point of its size


def draw(rows: Sequence[Row], style: Style, *, columns: int, title: str | None) -> Figure:
    """Draws rows of panels, the first at the top.

    Args:
        rows: The rows; those with more panels than columns go on in further lines.
        style: The style.
        columns: How many panels stand side by side.
        title: A line above all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scale = _inches_per_unit(rows, columns)
    width = max(
        _width(row, columns, scale) + (0.0 if row.top is None else _BAR_ROOM) for row in rows
    )
    width = max(width, 2.0) + 2 * _EDGE
    height = _EDGE + (_TOP if title else 0) + sum(_height(row, columns, scale) for row in rows)
    figure = Figure(
        (width, height), dpi=min(_DPI, _MOST_PIXELS / max(width, height)), facecolor="white"
    )
    FigureCanvasAgg(figure)
    down = _EDGE
    if title:
        _write(figure, _EDGE, down, title, 11, color=_DARK, weight="bold", gid="title")
        down += _TOP
    for row in rows:
        _draw_row(figure, row, style, columns, scale, down)
        down += _height(row, columns, scale)
    return figure


def _inches_per_unit(rows: Sequence[Row], columns: int) -> float:
    """One scale for all panels, so that planes of one volume can be compared."""
    sizes = [panel.extents for row in rows for panel in row.panels]
    widest, highest = max(size[0] for size in sizes), max(size[1] for size in sizes)
    most = max(min(len(row.panels), columns) for row in rows)
    inches = min(max((_WIDE - _GAP * (most - 1)) / most, _LEAST), _MOST[len(rows) > 1])
    return min(inches / widest, _TALL * inches / highest)


def _lines(row: Row, columns: int) -> list[Sequence[Panel]]:
    return [row.panels[at : at + columns] for at in range(0, len(row.panels), columns)]


def _width(row: Row, columns: int, scale: float) -> float:
    lines = [[panel.extents[0] for panel in line] for line in _lines(row, columns)]
    return max(sum(line) * scale + _GAP * (len(line) - 1) for line in lines)


def _line_height(line: Sequence[Panel], scale: float) -> float:
    titles = max(panel.title.count("\n") + 1 if panel.title else 0 for panel in line)
    room = titles * _TITLE + 0.03 * bool(titles) + _BETWEEN
    return max(panel.extents[1] for panel in line) * scale + room


def _height(row: Row, columns: int, scale: float) -> float:
    lines = sum(_line_height(line, scale) for line in _lines(row, columns))
    return lines + (_HEADING if row.heading else 0)


def _draw_row(
    figure: Figure, row: Row, style: Style, columns: int, scale: float, down: float
) -> None:
    from matplotlib.colors import Normalize

    width, height = figure.get_size_inches()
    norm = None
    if row.top is not None:
        norm = Normalize(-row.top if row.signed else 0.0, row.top)
    colormap = style.colormap or (SIGNED if row.signed else POSITIVE)
    if row.heading:
        _write(figure, _EDGE, down + 0.04, row.heading, 8.5, color=_DARK, gid=f"heading:{row.gid}")
        down += _HEADING
    scaled, place = None, (0.0, 0.0, 0.0, 0.0)
    for part, line in enumerate(_lines(row, columns)):
        titles = max(panel.title.count("\n") + 1 if panel.title else 0 for panel in line)
        left, top = _EDGE, down + titles * _TITLE + 0.03 * bool(titles)
        for number, panel in enumerate(line):
            wide, tall = (extent * scale for extent in panel.extents)
            axes = figure.add_axes(
                (left / width, 1 - (top + tall) / height, wide / width, tall / height)
            )
            if number or part:  # one set of letters a row is enough
                panel = replace(panel, letters=None)
            mappable = _draw_panel(axes, panel, style, norm, colormap, wide)
            if mappable is not None and scaled is None:
                beside = _EDGE + _width(row, columns, scale) + 0.12
                scaled = mappable
                place = (beside / width, axes.get_position().y0, _BAR / width, tall / height)
            left += wide + _GAP
        down += _line_height(line, scale)
    if scaled is not None:
        _draw_bar(figure, scaled, row, place)


def _draw_panel(
    axes: Axes, panel: Panel, style: Style, norm: Normalize | None, colormap: str, inches: float
) -> Any:
    """Draws one panel; gives the map's picture, for a colour bar."""
    axes.set_gid(panel.gid)
    axes.set_label(panel.label)
    axes.set_axis_off()
    shown = panel.grey if panel.grey is not None else panel.values
    assert shown is not None  # noqa: S101  # a panel shows something
    (rows, columns), (wide, tall) = shown.shape[:2], panel.size
    extent = (0.0, columns * wide, rows * tall, 0.0)
    how: dict[str, Any] = {"extent": extent, "origin": "upper", "aspect": "equal"}
    low, high = style.window
    if panel.grey is not None:
        grey = panel.grey
        if grey.ndim == 3:
            colours = np.clip((grey.astype(np.float64) - low) / (high - low), 0, 1)
            picture = axes.imshow(np.nan_to_num(colours), interpolation="nearest", **how)
        else:
            picture = axes.imshow(
                np.nan_to_num(grey, nan=low), cmap="gray", vmin=low, vmax=high,
                interpolation="bilinear", **how,
            )  # fmt: skip
        picture.set_gid("image")
    mappable = None
    if panel.values is not None and norm is not None:
        values = panel.values / panel.scale
        share = np.clip(np.abs(values) / norm.vmax, 0, 1)
        hidden = share < style.threshold
        alpha = style.opacity * share**RISE if panel.grey is not None else np.ones_like(share)
        mappable = axes.imshow(
            values, cmap=colormap, norm=norm, alpha=np.where(hidden, 0.0, alpha),
            interpolation="bilinear", **how,
        )  # fmt: skip
        mappable.set_gid("map")
    if panel.mask is not None and panel.mask.any() and not panel.mask.all():
        across, down = (np.arange(columns) + 0.5) * wide, (np.arange(rows) + 0.5) * tall
        line = axes.contour(
            across, down, panel.mask.astype(float), levels=[0.5], colors="white", linewidths=0.8
        )
        line.set_gid("mask")
    top, bottom, left, right = panel.box
    axes.set_xlim(left * wide, right * wide)
    axes.set_ylim(bottom * tall, top * tall)
    if panel.title:
        lines = [one_line(text, int(inches / _PER_LETTER / 7)) for text in panel.title.split("\n")]
        axes.set_title("\n".join(lines), fontsize=7, color=_GREY, pad=3, parse_math=False)
    _write_letters(axes, panel)
    return mappable


def _write_letters(axes: Axes, panel: Panel) -> None:
    if panel.letters is None:
        return
    from matplotlib.patheffects import withStroke

    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"),
              (0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))  # fmt: skip
    for letter, (x, y, ha, va) in zip(panel.letters, places, strict=True):
        axes.text(
            x, y, letter, transform=axes.transAxes, ha=ha, va=va, fontsize=7.5, color="white",
            gid=f"side:{letter}", path_effects=[withStroke(linewidth=2, foreground="black")],
        )  # fmt: skip


def _draw_bar(
    figure: Figure, mappable: Any, row: Row, place: tuple[float, float, float, float]
) -> Any:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes = figure.add_axes(place)
    axes.set_gid(f"colorbar:{row.gid}")
    axes.set_label(f"{row.units} of {row.heading}")
    beyond = "neither" if not row.cut else "both" if row.signed else "max"
    bar = figure.colorbar(
        mappable, cax=axes, extend=beyond, extendfrac=0.06, ticks=MaxNLocator(4),
        format=FuncFormatter(lambda value, _: short_number(value)),
    )  # fmt: skip
    bar.outline.set_linewidth(0.5)
    axes.tick_params(labelsize=6.5, length=2, width=0.5, pad=2, colors=_DARK)
    letters = int(place[3] * figure.get_size_inches()[1] / (6.5 * _PER_LETTER))
    name = one_line(row.units, letters)
    axes.set_ylabel(name, fontsize=6.5, color=_GREY, labelpad=3, parse_math=False)
    return bar


def _write(figure: Figure, left: float, down: float, text: str, size: float, **how: Any) -> None:
    """Writes a line into the figure, as long as there is room for it."""
    width, height = figure.get_size_inches()
    letters = math.floor((width - left - _EDGE) / (size * _PER_LETTER))
    figure.text(
        left / width, 1 - down / height, one_line(text, letters), fontsize=size, va="top",
        ha="left", parse_math=False, **how,
    )  # fmt: skip
