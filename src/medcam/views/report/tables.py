"""Scores and provenance as rows of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTHING = "–"  # noqa: RUF001 # an en dash, as tables have it


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and whether its column is one of numbers."""

    text: str
    number: bool


@dataclass(frozen=True)
class Table:
    """A table: the titles of its columns, and its rows."""

    columns: list[str]
    rows: list[list[Cell]]


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Gives a table with every key that a row has as a column, in the order of appearance.

    Example:
        >>> shown = table([{"method": "Grad-CAM", "wioa": 0.51239}, {"chance": float("nan")}])
        >>> shown.columns, [[cell.text for cell in row] for row in shown.rows]
        (['method', 'wioa', 'chance'], [['Grad-CAM', '0.512', '–'], ['–', '–', '–']])
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    known = [[row.get(key) for row in rows] for key in columns]
    numbers = [all(_is_number(value) for value in values) for values in known]
    cells = [
        [Cell(_text(row.get(key)), number) for key, number in zip(columns, numbers, strict=True)]
        for row in rows
    ]
    return Table([str(key) for key in columns], cells)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _text(value: Any) -> str:
    """A value as it stands in a table: three decimals; nothing known is a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.3g}"
    return str(value)


def flatten(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Gives nested mappings as pairs of names and texts.

    Example:
        >>> flatten({"model": {"sha256": "ab"}, "layers": ["a", "b"], "seed": None})
        [('model · sha256', 'ab'), ('layers', 'a, b'), ('seed', '–')]
    """
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{name} · ")
        elif isinstance(value, list | tuple) and not any(isinstance(v, Mapping) for v in value):
            pairs.append((name, ", ".join(str(item) for item in value) or NOTHING))
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                inner = item if isinstance(item, Mapping) else {"": item}
                pairs += flatten(inner, f"{name} {number + 1} · ")
        else:
            pairs.append((name, NOTHING if value is None else str(value)))
    return pairs
