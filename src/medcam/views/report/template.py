"""Pages from templates: everything in one file, names escaped, a strict policy."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from medcam.files.atomic import write_atomically


def render_template(name: str, *, style: str, scripts: Sequence[str] = (), **values: Any) -> str:
    """Gives a page from a template of this package, with its style, script and strict policy.

    Args:
        name: The template's file.
        style: The file of the style sheet.
        scripts: The files of the script, in their order; none allows none.
        values: What the template names.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    css, js = _asset(style), "\n".join(_asset(script) for script in scripts)
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_digest(css)}'",
        f"script-src '{_digest(js)}'" if js else "script-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    # These files are ours, and hold no closing tag; all other text is escaped by the template.
    return environment.from_string(_asset(name)).render(
        policy="; ".join(policy),
        css=Markup(css),  # noqa: S704
        js=Markup(js),  # noqa: S704
        **values,
    )


def embedded_json(data: Mapping[str, Any]) -> Any:
    r"""Gives JSON that no name in it can close or leave.

    Example:
        >>> str(embedded_json({"name": "</script>"}))
        '{"name":"\\u003c/script\\u003e"}'
    """
    from markupsafe import Markup

    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 is escaped
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704


def write_page(path: Path, page: str) -> Path:
    """Writes HTML text byte for byte: line ends are part of the hashes that its policy names."""
    return write_atomically(path, lambda new: _write(new, page.encode("utf-8", "replace")))


@cache
def _asset(name: str) -> str:
    """Gives a file of this package as text, with line ends as browsers hash them."""
    text = files("medcam.views.report").joinpath("assets", name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
