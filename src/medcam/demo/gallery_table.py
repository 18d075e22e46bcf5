"""The table of scores beneath a gallery: methods by metrics, grouped by task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE, _NOTE_LINE, _PAD = 0.235, 0.165, 0.12  # inches
_DARK, _GREY, _RULE = "#1b2027", "#5b6470", "#c3c9d1"
_NAMES = 0.22  # the share of the width that the names take
_BETWEEN = 0.02  # and that between two groups


@dataclass(frozen=True)
class ScoreTable:
    """Scores to print.

    Attributes:
        groups: The titles over the groups of columns, e.g. the tasks.
        columns: The titles of the columns of each group, e.g. the metrics.
        rows: A name and its numbers each, group by group; NaN is a dash.
        reference: The last row, set apart, e.g. the chance level; None without one.
        notes: Lines beneath.
    """

    groups: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float]]]
    reference: tuple[str, Sequence[float]] | None = None
    notes: Sequence[str] = ()


def table_inches(table: ScoreTable) -> float:
    """Gives the height that a table needs.

    Example:
        >>> table_inches(ScoreTable(["a"], ["Dice"], [("b", [0.5])]))
        0.825
    """
    lines = 2 + len(table.rows) + (table.reference is not None)
    return round(lines * _LINE + len(table.notes) * _NOTE_LINE + _PAD, 3)


def draw_table(axes: Axes, table: ScoreTable) -> None:
    """Draws the table over the whole of the axes, whose scale becomes inches from the top left.

    Args:
        axes: As high as `table_inches`.
        table: What to draw.

    Raises:
        ValueError: A row has more or fewer numbers than there are columns.
    """
    figure: Any = axes.get_figure()  # of matplotlib's own, or a part of one
    size = figure.get_size_inches() * axes.get_position().size
    axes.set_axis_off()
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    width = size[0]
    wide = (1 - _NAMES - _BETWEEN * (len(table.groups) - 1)) / len(table.groups) * width
    lefts = [(_NAMES + _BETWEEN * n) * width + wide * n for n in range(len(table.groups))]
    step = wide / len(table.columns)
    places = [left + step * (n + 0.5) for left in lefts for n in range(len(table.columns))]

    def write(x: float, line: float, text: str, **how: Any) -> None:
        how = {"fontsize": 9.5, "color": _DARK, "va": "center", **how}
        axes.text(x, _LINE * (line + 0.5), text, parse_math=False, **how)

    def rule(line: float, start: float = 0.0, end: float = width, **how: Any) -> None:
        axes.plot([start, end], [_LINE * line] * 2, **{"color": _DARK, "lw": 0.9, **how})

    rule(0)
    for left, title in zip(lefts, table.groups, strict=True):
        write(left + wide / 2, 0, title, ha="center", weight="bold")
        rule(1, left, left + wide, lw=0.6, color=_RULE)
    for place, title in zip(places, list(table.columns) * len(table.groups), strict=True):
        write(place, 1, title, ha="center", color=_GREY)
    rule(2, lw=0.6)
    line = 2
    rows = [(row, _DARK) for row in table.rows]
    if table.reference is not None:
        rows.append((table.reference, _GREY))
    for (name, numbers), colour in rows:
        write(0.06, line, name, color=colour)
        for place, number in zip(places, numbers, strict=True):
            write(place, line, _number(number), ha="center", color=colour)
        line += 1
    if table.reference is not None:
        rule(line - 1, lw=0.6, color=_RULE)
    rule(line)
    for n, note in enumerate(table.notes):
        y = _LINE * line + 0.06 + _NOTE_LINE * (n + 0.5)
        axes.text(0.06, y, note, fontsize=8, color=_GREY, va="center", parse_math=False)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"  # noqa: RUF001 # an en dash
