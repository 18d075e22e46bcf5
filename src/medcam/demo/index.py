"""The page that the demonstration is looked at from: one file, opened from disk."""

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
    """A link.

    Attributes:
        name: What is shown.
        path: Where it leads, relative to the index.
        picture: A thumbnail, a data URI; None without one.
    """

    name: str
    path: str
    picture: str | None = None

    @property
    def address(self) -> str:
        """The path as an address."""
        return quote(self.path)


@dataclass(frozen=True)
class Section:
    """One task.

    Attributes:
        title: Its title.
        note: A line beneath.
        scores: The rows of its table.
        pages: The pages of its images.
        files: Its files.
    """

    title: str
    note: str
    scores: Sequence[Mapping[str, Any]]
    pages: Sequence[Link]
    files: Sequence[Link]


def write_demo_index(
    path: Path, picture: Path, sections: Sequence[Section], reading: str, top: Sequence[Link]
) -> Path:
    """Writes the index, complete or not at all; it loads nothing, its picture is in it.

    Args:
        path: The file.
        picture: The gallery, PNG.
        sections: The tasks.
        reading: How to read the tables.
        top: Links beneath the picture.

    Raises:
        SaveError: The file could not be written.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    css = "\n".join((_asset("views/report/assets/report.css"), _asset("demo/index.css")))
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode("ascii")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(_asset("demo/index.html.j2")).render(
        css=Markup(css),  # noqa: S704 # our own files
        digest=digest,
        picture=base64.b64encode(picture.read_bytes()).decode("ascii"),
        sections=[(section, table(section.scores)) for section in sections],
        reading=reading,
        top=top,
    )
    return write_atomically(path, lambda new: _write(new, page.encode()))


def _asset(name: str) -> str:
    """A text file of the package, with line ends as browsers hash them."""
    text = files("medcam").joinpath(*name.split("/")).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
