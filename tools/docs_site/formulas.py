"""MkDocs hook: formulas become MathML, which browsers draw by themselves, without a script."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<kind>[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>',
    re.DOTALL,
)


def on_page_content(content: str, *, page: Any, **_: Any) -> str:
    """Replaces the formulas that arithmatex has marked in a page."""
    return _FORMULA.sub(lambda found: _mathml(found, page.file.src_uri), content)


def _mathml(found: re.Match[str], where: str) -> str:
    tex = html.unescape(found["tex"]).strip()
    block = found["kind"] == "["
    drawn = convert(tex, display="block" if block else "inline")
    if "\\" in html.unescape(drawn):  # the converter passes on what it does not know
        raise PluginError(f"{where}: a command in the formula {tex!r} is not known")
    return f'<div class="formula">{drawn}</div>' if block else drawn
