"""Write the index: a page that lists several cases with a picture, scores and a link each."""

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
    """One case of an index; small, so that the scene itself need not be kept in memory.

    Attributes:
        name: The name of the case.
        report: The path of its report, relative to the index; None without one.
        picture: Its thumbnail as a data URI; None without one.
        scores: The rows of its table of scores; without scores, the methods and layers of its maps.
        error: Why it has no report.
    """

    name: str
    report: str | None = None
    picture: str | None = None
    scores: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    error: str | None = None


def index_entry(scene: Scene, report: str) -> IndexEntry:
    """Return the index entry of a scene.

    Args:
        scene: The scene.
        report: The path of its report, relative to the index.

    Example:
        >>> import numpy as np
        >>> entry = index_entry(Scene("a", np.zeros((2, 3))), "a.html")
        >>> entry.name, entry.report, entry.picture[:22]
        ('a', 'a.html', 'data:image/png;base64,')
    """
    previews = previews_of(scene, side=_SIDE)
    picture = previews[0 if scene.is_volume else -1]  # the axial plane, or the overlay
    scores = scene.scores or [
        {"method": scene_map.method, "layer": scene_map.layer or ""} for scene_map in scene.maps
    ]
    return IndexEntry(scene.name, report, picture, scores)


def write_index(
    path: str | PathLike[str], entries: Sequence[IndexEntry], *, title: str = "Attention maps"
) -> Path:
    """Write a page that lists cases, failed ones with their errors; the write is atomic.

    Args:
        path: The file, e.g. ``"out/index.html"``.
        entries: The cases to list, in this order.
        title: The title of the page.

    Raises:
        SaveError: The file could not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_index(Path(folder, "index.html"), [IndexEntry("a", error="no image")]).name
        'index.html'
    """
    table = tables.table([row for entry in entries for row in entry.scores])
    cell_rows = iter(table.rows)
    rows = [
        {
            "entry": entry,
            "link": None if entry.report is None else _link(entry.report),
            "scores": list(islice(cell_rows, len(entry.scores))),
        }
        for entry in entries
    ]
    numeric = [cell.number for cell in table.rows[0]] if table.rows else []
    columns = list(zip(table.columns, numeric, strict=True))
    failed = sum(entry.error is not None for entry in entries)
    page = render_template(
        "index.html.j2", style="report.css", title=title, rows=rows, columns=columns, failed=failed
    )
    return write_page(Path(path), page)


def _link(path: str) -> str:
    """Return a path as a link; bytes of a name that are no UTF-8 stay what they are."""
    return quote(path.replace("\\", "/"), errors="surrogateescape")
