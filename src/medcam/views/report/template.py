"""Render self-contained pages from templates: names escaped, a strict content security policy."""

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
    """Return a page from a template of this package, with its style, script and policy.

    The content security policy allows only this style and this script, by their hashes, and images
    that are embedded as data.

    Args:
        name: The file of the template.
        style: The file of the style sheet.
        scripts: The files that are joined to the script, in this order. Without files the page may
            run no script.
        **values: The variables of the template.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_asset),  # of the parts that templates include
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    css, js = _asset(style), "\n".join(_asset(script) for script in scripts)
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_digest(css)}'",
        f"script-src '{_digest(js)}'" if js else "script-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    # Marked as safe because they are files of this package, which contain no closing tags; all
    # other text is escaped by the template.
    return environment.from_string(_asset(name)).render(
        policy="; ".join(policy),
        css=Markup(css),  # noqa: S704
        js=Markup(js),  # noqa: S704
        **values,
    )


def embedded_json(data: Mapping[str, Any]) -> Any:
    r"""Return data as JSON that is safe within a ``<script>`` element.

    No text in it can close the element, because ``<``, ``>`` and ``&`` are escaped.

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
    """Write HTML text as UTF-8 bytes, atomically.

    Line ends are not converted, because the hashes of the policy depend on them.
    """
    return write_atomically(path, lambda new: _write_bytes(new, page.encode("utf-8", "replace")))


@cache
def _asset(name: str) -> str:
    """Return a file of this package as text, with the line ends that browsers hash."""
    text = files("medcam.views.report").joinpath("assets", name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
