"""Tables as an Excel workbook in memory, in which text stays text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from openpyxl import Workbook
    from openpyxl.cell import Cell

_FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")
_WIDEST = 60  # characters; wider columns push the others out of sight


def to_workbook(tables: Mapping[str, pd.DataFrame]) -> Workbook:
    """Gives a workbook with one sheet per table: a frozen header line, then the rows.

    NaN is written as the text "NaN", which pandas reads back as NaN; None as an empty cell. Text
    is never taken for a formula or an error code, and what Excel cannot hold (control characters)
    is replaced by "�".

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
            _fill(header, str(column))
            header.font = Font(bold=True)
            longest = len(str(column))
            for line, value in enumerate(table[column].tolist(), start=2):
                cell = sheet.cell(line, number)
                _fill(cell, value)
                longest = max(longest, len(str(cell.value)))
            sheet.column_dimensions[header.column_letter].width = min(longest + 3, _WIDEST)
        sheet.freeze_panes = "A2"
    return book


def _fill(cell: Cell, value: Any) -> None:
    """Writes a number as a number, None as nothing, and all else as text."""
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    if value is None:
        return
    if isinstance(value, int | float) and math.isfinite(value):
        cell.value = value
        return
    text = "NaN" if isinstance(value, float) and math.isnan(value) else str(value)
    cell.value = ILLEGAL_CHARACTERS_RE.sub("�", text)
    cell.data_type = "s"  # openpyxl takes "=…" for a formula and "#N/A" for an error
    if text.startswith(_FORMULA_MARKS):
        cell.quotePrefix = True  # Excel keeps it text when somebody edits the cell
