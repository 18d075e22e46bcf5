"""Griffe extension: what docstrings show as doctests becomes code on the page.

Griffe reads an ``Examples:`` section as code; ours are called ``Example:``, or are bare.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^Example:$", re.MULTILINE)
_BARE = re.compile(r"^(?P<code>>>> .*?)(?=^\s*$|\Z)", re.MULTILINE | re.DOTALL)
_LITERAL = re.compile(r"(?<=\w)::$", re.MULTILINE)


class Doctests(griffe.Extension):
    """Rewrites the docstrings before they are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each object that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)


def readable(text: str) -> str:
    """The docstring with its doctests in a form that griffe and Markdown know."""
    text = _LITERAL.sub(":", _SECTION.sub("Examples:", text))
    return _BARE.sub(lambda found: f"```pycon\n{found['code'].rstrip()}\n```\n", text)
