"""Excel workbooks made of tables, in memory; text is never read as a formula."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from openpyxl import Workbook
    from openpyxl.cell import Cell

_FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")
_RED = "C0392B"
_MAX_WIDTH = 60  # characters of a column; wider ones push the others off the screen


def to_workbook(tables: Mapping[str, pd.DataFrame]) -> Workbook:
    """Return a workbook with one sheet per table: a frozen header line, then the rows.

    A "lift" below 1, which is a score below chance, is red.

    NaN is written as the text "NaN", which pandas reads back as NaN; None is an empty cell. Text
    is marked as text, so that Excel does not read it as a formula or an error code. Control
    characters, which Excel cannot hold, are replaced by "�".

    Example:
        >>> import pandas as pd
        >>> book = to_workbook({"Scores": pd.DataFrame({"layer": ["=1+1"]})})
        >>> [cell.value for cell in book["Scores"]["A"]], book["Scores"]["A2"].data_type
        (['layer', '=1+1'], 's')
    """
    from openpyxl import Workbook
    from openpyxl.styles import Font

    book = Workbook()
    book.remove(book.active)
    for title, table in tables.items():
        sheet = book.create_sheet(title)
        for number, column in enumerate(table.columns, start=1):
            header = sheet.cell(1, number)
            _write_cell(header, str(column))
            header.font = Font(bold=True)
            longest = len(str(column))
            for line, value in enumerate(table[column].tolist(), start=2):
                cell = sheet.cell(line, number)
                _write_cell(cell, value)
                if column == "lift" and isinstance(value, float) and value < 1:  # below chance
                    cell.font = Font(bold=True, color=_RED)
                longest = max(longest, len(str(cell.value)))
            sheet.column_dimensions[header.column_letter].width = min(longest + 3, _MAX_WIDTH)
        sheet.freeze_panes = "A2"
    return book


def _write_cell(cell: Cell, value: Any) -> None:
    """Write a finite number as a number, None as nothing, and everything else as text."""
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    if value is None:
        return
    if isinstance(value, int | float) and math.isfinite(value):
        cell.value = value
        return
    text = "NaN" if isinstance(value, float) and math.isnan(value) else str(value)
    cell.value = ILLEGAL_CHARACTERS_RE.sub("�", text)
    cell.data_type = "s"  # openpyxl reads "=…" as a formula and "#N/A" as an error
    if text.startswith(_FORMULA_MARKS):
        cell.quotePrefix = True  # so that it remains text after the cell was edited in Excel
