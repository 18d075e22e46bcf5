"""The index: several cases on one page, each with a picture, its scores and a link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medcam.views.report import tables
from medcam.views.report.page import previews_of
from medcam.views.report.template import render_template, write_page
from medcam.views.scene.values import Scene

_SIDE = 112  # pixels of a thumbnail's longer side


@dataclass(frozen=True)
class IndexEntry:
    """One line of an index; small, so that cases need not be kept.

    Attributes:
        name: The case's name.
        report: The path of its page, relative to the index; None without one.
        picture: Its thumbnail, a data URI; None without one.
        scores: The rows of its table; without scores, what its maps are of.
        error: Why it has no page.
    """

    name: str
    report: str | None = None
    picture: str | None = None
    scores: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    error: str | None = None


def index_entry(case: Scene, report: str) -> IndexEntry:
    """Gives the line of a case.

    Args:
        case: The case.
        report: The path of its page, relative to the index.

    Example:
        >>> import numpy as np
        >>> entry = index_entry(Scene("a", np.zeros((2, 3))), "a.html")
        >>> entry.name, entry.report, entry.picture[:22]
        ('a', 'a.html', 'data:image/png;base64,')
    """
    pictures = previews_of(case, side=_SIDE)
    picture = pictures[0 if case.is_volume else -1]  # axial, or the overlay
    scores = case.scores or [{"method": m.method, "layer": m.layer or ""} for m in case.maps]
    return IndexEntry(case.name, report, picture, scores)


def write_index(
    path: str | PathLike[str], cases: Sequence[IndexEntry], *, title: str = "Attention maps"
) -> Path:
    """Writes a page that lists cases, failed ones with their errors, complete or not at all.

    Args:
        path: The file, e.g. ``"out/index.html"``.
        cases: What to list, in this order.
        title: The title of the page.

    Raises:
        SaveError: The file could not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_index(Path(folder, "index.html"), [IndexEntry("a", error="no image")]).name
        'index.html'
    """
    shown = tables.table([row for one in cases for row in one.scores])
    cells = iter(shown.rows)
    rows = [
        {
            "case": one,
            "link": None if one.report is None else quote(one.report.replace("\\", "/")),
            "scores": list(islice(cells, len(one.scores))),
        }
        for one in cases
    ]
    numbers = [cell.number for cell in shown.rows[0]] if shown.rows else []
    columns = list(zip(shown.columns, numbers, strict=True))
    failed = sum(one.error is not None for one in cases)
    page = render_template(
        "index.html.j2", style="report.css", title=title, rows=rows, columns=columns, failed=failed
    )
    return write_page(Path(path), page)
