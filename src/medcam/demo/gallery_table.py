"""The table of scores below a gallery: one row per method, the metrics grouped by task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE, _NOTE_LINE, _PADDING, _INDENT = 0.235, 0.165, 0.12, 0.06  # inches
_DARK, _GREY, _RULE = "#1b2027", "#5b6470", "#c3c9d1"
_NAME_SHARE, _GAP_SHARE = 0.22, 0.02  # of the width: the column of names, the gap between groups


@dataclass(frozen=True)
class ScoreTable:
    """The content of a table of scores.

    Attributes:
        groups: The titles of the groups of columns, e.g. the tasks.
        columns: The titles of the columns within each group, e.g. the metrics.
        rows: The name and the numbers of each row, group by group; NaN is drawn as a dash.
        reference: The last row, below a rule, e.g. the chance level; None without one.
        notes: Lines below the table.
    """

    groups: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float]]]
    reference: tuple[str, Sequence[float]] | None = None
    notes: Sequence[str] = ()


def table_height(table: ScoreTable) -> float:
    """Return the height of a table in inches.

    Example:
        >>> table_height(ScoreTable(["a"], ["Dice"], [("b", [0.5])]))
        0.825
    """
    lines = 2 + len(table.rows) + (table.reference is not None)
    return round(lines * _LINE + len(table.notes) * _NOTE_LINE + _PADDING, 3)


def draw_table(axes: Axes, table: ScoreTable) -> None:
    """Draw the table over the whole axes.

    The axes are rescaled: data coordinates become inches from the upper left corner.

    Args:
        axes: The axes; their height is that of `table_height`.
        table: The content.

    Raises:
        ValueError: A row has more or fewer numbers than there are columns.
    """
    figure: Any = axes.get_figure()  # matplotlib's stubs say: perhaps a SubFigure, or None
    width, height = figure.get_size_inches() * axes.get_position().size
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    group_count = len(table.groups)
    group_width = (1 - _NAME_SHARE - _GAP_SHARE * (group_count - 1)) / group_count * width
    group_lefts = [
        (_NAME_SHARE + _GAP_SHARE * n) * width + group_width * n for n in range(group_count)
    ]
    column_width = group_width / len(table.columns)
    centres = [
        left + column_width * (n + 0.5) for left in group_lefts for n in range(len(table.columns))
    ]

    def write(x: float, line: float, text: str, **style: Any) -> None:
        style = {"fontsize": 9.5, "color": _DARK, "va": "center", **style}
        axes.text(x, _LINE * (line + 0.5), text, parse_math=False, **style)

    def rule(line: float, start: float = 0.0, end: float = width, **style: Any) -> None:
        axes.plot([start, end], [_LINE * line] * 2, **{"color": _DARK, "lw": 0.9, **style})

    rule(0)
    for left, title in zip(group_lefts, table.groups, strict=True):
        write(left + group_width / 2, 0, title, ha="center", weight="bold")
        rule(1, left, left + group_width, lw=0.6, color=_RULE)
    for centre, title in zip(centres, list(table.columns) * group_count, strict=True):
        write(centre, 1, title, ha="center", color=_GREY)
    rule(2, lw=0.6)
    rows = [(row, _DARK) for row in table.rows]
    if table.reference is not None:
        rows.append((table.reference, _GREY))
    for line, ((name, numbers), color) in enumerate(rows, start=2):
        write(_INDENT, line, name, color=color)
        for centre, number in zip(centres, numbers, strict=True):
            write(centre, line, _number_text(number), ha="center", color=color)
    end = 2 + len(rows)
    if table.reference is not None:
        rule(end - 1, lw=0.6, color=_RULE)
    rule(end)
    for n, note in enumerate(table.notes):
        y = _LINE * end + 0.06 + _NOTE_LINE * (n + 0.5)
        axes.text(_INDENT, y, note, fontsize=8, color=_GREY, va="center", parse_math=False)


def _number_text(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"  # noqa: RUF001 # an en dash
