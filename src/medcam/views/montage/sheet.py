"""Draw rows of panels as a matplotlib figure: sizes in inches, colours by value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medcam.views.colors import OPACITY_EXPONENT, POSITIVE, SIGNED
from medcam.views.montage.panels import Panel, PanelRow, Style
from medcam.views.texts import one_line, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_DARK, _GREY = "#222222", "#5c5c5c"
_DPI, _MAX_PIXELS = 150, 30_000  # Agg draws at most 65 535 pixels along an axis
_MAX_ASPECT = 1.35  # of a panel's height to its width; taller panels are made narrower

# Lengths in inches.
_LINE_WIDTH = 9.0  # of all panels of a line together
_MIN_PANEL = 1.3  # width
_MAX_PANEL_ALONE, _MAX_PANEL = 3.0, 2.3  # width, in a figure of one row and of several
_GAP, _EDGE, _LINE_GAP = 0.05, 0.1, 0.1  # between panels, around the figure, between lines
_TITLE_HEIGHT, _HEADING_HEIGHT, _FIGURE_TITLE_HEIGHT = 0.135, 0.23, 0.32
_BAR_WIDTH, _BAR_ROOM = 0.1, 0.85  # of a colour bar; with its numbers and its label
_LETTER_WIDTH = 0.0078  # of an average letter, for each point of the font size


def draw_rows(rows: Sequence[PanelRow], style: Style, *, columns: int, title: str | None) -> Figure:
    """Return a figure of rows of panels, the first at the top.

    Args:
        rows: The rows; a row with more panels than columns is broken into several lines.
        style: The style.
        columns: The number of panels side by side.
        title: A line at the top of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scale = _inches_per_unit(rows, columns)
    width = max(
        _row_width(row, columns, scale) + (0.0 if row.top is None else _BAR_ROOM) for row in rows
    )
    width = max(width, 2.0) + 2 * _EDGE
    title_height = _FIGURE_TITLE_HEIGHT if title else 0
    height = _EDGE + title_height + sum(_row_height(row, columns, scale) for row in rows)
    figure = Figure(
        (width, height), dpi=min(_DPI, _MAX_PIXELS / max(width, height)), facecolor="white"
    )
    FigureCanvasAgg(figure)
    y = _EDGE  # from the top of the figure down
    if title:
        _write_line(figure, y, title, 11, color=_DARK, weight="bold", gid="title")
        y += _FIGURE_TITLE_HEIGHT
    for row in rows:
        _draw_row(figure, row, style, columns, scale, y)
        y += _row_height(row, columns, scale)
    return figure


def _inches_per_unit(rows: Sequence[PanelRow], columns: int) -> float:
    """Return the scale, the same for all panels so that planes of a volume can be compared."""
    sizes = [panel.extents for row in rows for panel in row.panels]
    widest, highest = max(size[0] for size in sizes), max(size[1] for size in sizes)
    most_panels = max(min(len(row.panels), columns) for row in rows)
    fitting = (_LINE_WIDTH - _GAP * (most_panels - 1)) / most_panels
    inches = min(max(fitting, _MIN_PANEL), _MAX_PANEL if len(rows) > 1 else _MAX_PANEL_ALONE)
    return min(inches / widest, _MAX_ASPECT * inches / highest)


def _lines(row: PanelRow, columns: int) -> list[Sequence[Panel]]:
    return [row.panels[start : start + columns] for start in range(0, len(row.panels), columns)]


def _row_width(row: PanelRow, columns: int, scale: float) -> float:
    lines = [[panel.extents[0] for panel in line] for line in _lines(row, columns)]
    return max(sum(line) * scale + _GAP * (len(line) - 1) for line in lines)


def _row_height(row: PanelRow, columns: int, scale: float) -> float:
    lines = sum(_line_height(line, scale) for line in _lines(row, columns))
    return lines + (_HEADING_HEIGHT if row.heading else 0)


def _line_height(line: Sequence[Panel], scale: float) -> float:
    room = _titles_height(line) + _LINE_GAP
    return max(panel.extents[1] for panel in line) * scale + room


def _titles_height(line: Sequence[Panel]) -> float:
    """Return the height of the panels' titles, which may have several lines of text."""
    text_lines = max(panel.title.count("\n") + 1 if panel.title else 0 for panel in line)
    return text_lines * _TITLE_HEIGHT + 0.03 * bool(text_lines)


def _draw_row(
    figure: Figure, row: PanelRow, style: Style, columns: int, scale: float, y: float
) -> None:
    """Draw a row with its heading and its colour bar, ``y`` inches below the figure's top."""
    from matplotlib.colors import Normalize

    width, height = figure.get_size_inches()
    norm = None
    if row.top is not None:
        norm = Normalize(-row.top if row.signed else 0.0, row.top)
    colormap = style.colormap or (SIGNED if row.signed else POSITIVE)
    if row.heading:
        _write_line(figure, y + 0.04, row.heading, 8.5, color=_DARK, gid=f"heading:{row.gid}")
        y += _HEADING_HEIGHT
    bar_map, bar_place = None, (0.0, 0.0, 0.0, 0.0)
    for line_number, line in enumerate(_lines(row, columns)):
        left, top = _EDGE, y + _titles_height(line)
        for number, panel in enumerate(line):
            panel_width, panel_height = (extent * scale for extent in panel.extents)
            axes = figure.add_axes(
                (
                    left / width,
                    1 - (top + panel_height) / height,
                    panel_width / width,
                    panel_height / height,
                )
            )
            if number or line_number:  # letters in the first panel of a row are enough
                panel = replace(panel, letters=None)
            drawn_map = _draw_panel(axes, panel, style, norm, colormap, panel_width)
            if drawn_map is not None and bar_map is None:  # the bar stands beside the first map
                bar_map = drawn_map
                bar_left = _EDGE + _row_width(row, columns, scale) + 0.12
                bar_place = (
                    bar_left / width,
                    axes.get_position().y0,
                    _BAR_WIDTH / width,
                    panel_height / height,
                )
            left += panel_width + _GAP
        y += _line_height(line, scale)
    if bar_map is not None:
        _draw_bar(figure, bar_map, row, bar_place)


def _draw_panel(
    axes: Axes, panel: Panel, style: Style, norm: Normalize | None, colormap: str, inches: float
) -> Any:
    """Draw one panel, ``inches`` wide; return the artist of the map, for a colour bar."""
    axes.set_gid(panel.gid)
    axes.set_label(panel.label)
    axes.set_axis_off()
    shown = panel.grey if panel.grey is not None else panel.values
    assert shown is not None  # noqa: S101  # a panel shows an image, a map or both
    (rows, columns), (pixel_width, pixel_height) = shown.shape[:2], panel.size
    extent = (0.0, columns * pixel_width, rows * pixel_height, 0.0)
    placement: dict[str, Any] = {"extent": extent, "origin": "upper", "aspect": "equal"}
    if panel.grey is not None:
        _draw_grey(axes, panel.grey, style, placement)
    map_artist = None
    if panel.values is not None and norm is not None:
        values = panel.values / panel.scale
        share = np.clip(np.abs(values) / norm.vmax, 0, 1)
        hidden = share < style.threshold
        alpha = np.ones_like(share)
        if panel.grey is not None:
            alpha = style.opacity * share**OPACITY_EXPONENT
        map_artist = axes.imshow(
            values, cmap=colormap, norm=norm, alpha=np.where(hidden, 0.0, alpha),
            interpolation="bilinear", **placement,
        )  # fmt: skip
        map_artist.set_gid("map")
    _draw_mask(axes, panel)
    top, bottom, left, right = panel.view
    axes.set_xlim(left * pixel_width, right * pixel_width)
    axes.set_ylim(bottom * pixel_height, top * pixel_height)
    if panel.title:
        longest = int(inches / _LETTER_WIDTH / 7)
        lines = [one_line(text, longest) for text in panel.title.split("\n")]
        axes.set_title("\n".join(lines), fontsize=7, color=_GREY, pad=3, parse_math=False)
    _write_letters(axes, panel)
    return map_artist


def _draw_grey(axes: Axes, grey: Any, style: Style, placement: dict[str, Any]) -> None:
    """Draw the image of a panel, grey or in colour; values that are not finite are black."""
    low, high = style.window
    if grey.ndim == 3:
        finite = np.nan_to_num(grey.astype(np.float64), nan=low, posinf=low, neginf=low)
        colours = np.clip((finite - low) / (high - low), 0, 1)
        picture = axes.imshow(colours, interpolation="nearest", **placement)
    else:
        picture = axes.imshow(
            np.nan_to_num(grey, nan=low, posinf=low, neginf=low), cmap="gray", vmin=low, vmax=high,
            interpolation="bilinear", **placement,
        )  # fmt: skip
    picture.set_gid("image")


def _draw_mask(axes: Axes, panel: Panel) -> None:
    """Draw the border of the mask as a white line; an empty or full mask has none."""
    if panel.mask is None or not panel.mask.any() or panel.mask.all():
        return
    rows, columns = panel.mask.shape
    x = (np.arange(columns) + 0.5) * panel.size[0]
    y = (np.arange(rows) + 0.5) * panel.size[1]
    line = axes.contour(
        x, y, panel.mask.astype(float), levels=[0.5], colors="white", linewidths=0.8
    )
    line.set_gid("mask")


def _write_letters(axes: Axes, panel: Panel) -> None:
    """Write the patient's sides at the edges of a panel."""
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
    figure: Figure, map_artist: Any, row: PanelRow, place: tuple[float, float, float, float]
) -> None:
    """Draw the colour bar of a row at a place given in shares of the figure."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes = figure.add_axes(place)
    axes.set_gid(f"colorbar:{row.gid}")
    axes.set_label(f"{row.units} of {row.heading}")
    extend = "neither" if not row.clipped else "both" if row.signed else "max"
    bar = figure.colorbar(
        map_artist, cax=axes, extend=extend, extendfrac=0.06, ticks=MaxNLocator(4),
        format=FuncFormatter(lambda value, _: short_number(value)),
    )  # fmt: skip
    bar.outline.set_linewidth(0.5)
    axes.tick_params(labelsize=6.5, length=2, width=0.5, pad=2, colors=_DARK)
    longest = int(place[3] * figure.get_size_inches()[1] / (6.5 * _LETTER_WIDTH))
    label = one_line(row.units, longest)
    axes.set_ylabel(label, fontsize=6.5, color=_GREY, labelpad=3, parse_math=False)


def _write_line(figure: Figure, y: float, text: str, size: float, **properties: Any) -> None:
    """Write one line ``y`` inches below the figure's top, shortened to the figure's width."""
    width, height = figure.get_size_inches()
    longest = math.floor((width - _EDGE - _EDGE) / (size * _LETTER_WIDTH))
    figure.text(
        _EDGE / width, 1 - y / height, one_line(text, longest), fontsize=size, va="top",
        ha="left", parse_math=False, **properties,
    )  # fmt: skip
