"""The demo's index page: one HTML file that opens from disk and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medcam.files import write_atomically
from medcam.views.report.tables import table

__all__ = ["Link", "Section", "write_demo_index"]


@dataclass(frozen=True)
class Link:
    """A link to a file in the demo's folder.

    Attributes:
        name: The text of the link.
        path: The path of the file, relative to the index.
        picture: A thumbnail as data URI; None without one.
    """

    name: str
    path: str
    picture: str | None = None

    @property
    def address(self) -> str:
        """The path, percent-encoded for a URL."""
        return quote(self.path)


@dataclass(frozen=True)
class Section:
    """The section of one task.

    Attributes:
        title: The heading.
        note: A line below the heading.
        scores: The rows of the table of scores.
        pages: Links to the pages of the task's images.
        files: Links to the task's maps and tables.
    """

    title: str
    note: str
    scores: Sequence[Mapping[str, Any]]
    pages: Sequence[Link]
    files: Sequence[Link]


def write_demo_index(
    path: Path, gallery: Path, sections: Sequence[Section], how_to_read: str, top: Sequence[Link]
) -> Path:
    """Write the index atomically, as one file with the figure in it.

    Args:
        path: The HTML file.
        gallery: The figure, a PNG file.
        sections: One section per task.
        how_to_read: The explanation of the metrics, shown below the tables.
        top: Links below the figure.

    Returns:
        The path of the HTML file.

    Raises:
        SaveError: The file could not be written.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    css = "\n".join((_text_of("views/report/assets/report.css"), _text_of("demo/index.css")))
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode("ascii")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(_text_of("demo/index.html.j2")).render(
        css=Markup(css),  # noqa: S704 # our own files
        digest=digest,
        gallery=base64.b64encode(gallery.read_bytes()).decode("ascii"),
        sections=[(section, table(section.scores)) for section in sections],
        how_to_read=how_to_read,
        top=top,
    )
    return write_atomically(path, lambda temporary: _write(temporary, page.encode()))


def _text_of(asset: str) -> str:
    """Return a text file of the package, with the line ends that browsers hash."""
    text = files("medcam").joinpath(*asset.split("/")).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
