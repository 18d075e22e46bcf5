"""Convert scores and provenance to rows of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTHING = "–"  # noqa: RUF001 # an en dash is intended, as is usual in tables


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The text.
        number: Whether the column of the cell holds numbers only, which are aligned to the right.
        below: Whether it is a score below the chance level of its row.
    """

    text: str
    number: bool
    below: bool = False


@dataclass(frozen=True)
class Table:
    """A table: the titles of its columns, and its rows."""

    columns: list[str]
    rows: list[list[Cell]]


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table that has a column for every key of any row, in the order of appearance.

    Example:
        >>> scores = table([{"method": "Grad-CAM", "wioa": 0.51239}, {"chance": float("nan")}])
        >>> scores.columns, [[cell.text for cell in row] for row in scores.rows]
        (['method', 'wioa', 'chance'], [['Grad-CAM', '0.512', '–'], ['–', '–', '–']])
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    column_values = [[row.get(key) for row in rows] for key in columns]
    numeric = [all(_is_number(value) for value in values) for values in column_values]
    cells = [
        [
            Cell(_cell_text(row.get(key)), is_numeric, _is_below_chance(row, key))
            for key, is_numeric in zip(columns, numeric, strict=True)
        ]
        for row in rows
    ]
    return Table([str(key) for key in columns], cells)


CHANCE = "By chance"
"""The column with the chance level of a row's scores."""

_HIT_OR_MISS = "Pointing game"  # 0 or 1: a single miss is no score below chance


def _is_below_chance(row: Mapping[str, Any], key: str) -> bool:
    """Return whether a value is a score below the chance level of its row."""
    value, chance = row.get(key), row.get(CHANCE)
    is_score = isinstance(value, float) and key not in (CHANCE, _HIT_OR_MISS)
    return is_score and isinstance(chance, float) and float(value or 0) < chance


def _is_number(value: Any) -> bool:
    """Return whether a value is a number or missing."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell_text(value: Any) -> str:
    """Return the text of a value: floats with three digits, missing values and NaN as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.3g}"
    return str(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested mappings as pairs of name and text.

    Args:
        values: A mapping; its values may be mappings and lists.
        prefix: The text before each name.

    Example:
        >>> flatten({"model": {"sha256": "ab"}, "layers": ["a", "b"], "seed": None})
        [('model · sha256', 'ab'), ('layers', 'a, b'), ('seed', '–')]
    """
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{name} · ")
        elif isinstance(value, list | tuple) and not any(isinstance(v, Mapping) for v in value):
            pairs.append((name, ", ".join(str(item) for item in value) or NOTHING))
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                mapping = item if isinstance(item, Mapping) else {"": item}
                pairs += flatten(mapping, f"{name} {number + 1} · ")
        else:
            pairs.append((name, NOTHING if value is None else str(value)))
    return pairs
