"""MkDocs hook that converts formulas to MathML, which browsers render without a script."""

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
    """Replace the formulas that arithmatex has marked in a page."""
    return _FORMULA.sub(lambda match: _mathml(match, page.file.src_uri), content)


def _mathml(match: re.Match[str], page: str) -> str:
    tex = html.unescape(match["tex"]).strip()
    block = match["kind"] == "["
    mathml = convert(tex, display="block" if block else "inline")
    if "\\" in html.unescape(mathml):  # the converter copies commands that it does not support
        raise PluginError(
            f"{page}: latex2mathml does not support a command in the formula {tex!r}; use another."
        )
    return f'<div class="formula">{mathml}</div>' if block else mathml
