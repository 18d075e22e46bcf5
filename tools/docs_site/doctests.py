"""Griffe extension that renders the doctests of docstrings as code.

Griffe renders an ``Examples:`` section as code. The docstrings of medcam call it ``Example:``, and
some doctests are in no section.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^Example:$", re.MULTILINE)
_DOCTEST = re.compile(r"^(?P<code>>>> .*?)(?=^\s*$|\Z)", re.MULTILINE | re.DOTALL)
_LITERAL_BLOCK = re.compile(r"(?<=\w)::$", re.MULTILINE)


class Doctests(griffe.Extension):
    """Griffe extension that rewrites the docstrings before griffe parses them."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object; griffe calls this for each object it has read."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """Return the docstring with its doctests in the syntax of griffe and Markdown."""
    text = _LITERAL_BLOCK.sub(":", _SECTION.sub("Examples:", text))
    return _DOCTEST.sub(lambda match: f"```pycon\n{match['code'].rstrip()}\n```\n", text)
