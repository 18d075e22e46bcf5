"""The messages that the pages quote are those that medcam says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUOTE = re.compile(r"^> (.+)$", re.MULTILINE)
QUOTES = [
    pytest.param(quote, id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for number, quote in enumerate(QUOTE.findall(page.read_text(encoding="utf-8")))
]
HOLE = "\0"  # where a value is put into a message, or words are left out of a quote


def _messages() -> list[list[str]]:
    """The words of all texts of the source, with a hole for each value."""
    found = []
    for path in (ROOT / "src" / "medcam").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else HOLE for p in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"\{\w+\}", HOLE, node.value))
    texts = [text.split() for text in found]
    return [words for words in texts if any(HOLE not in word for word in words)]


MESSAGES = _messages()


def _says(message: list[str], words: list[str]) -> bool:
    """Whether the words stand in the message, one after the other; a hole is any words."""
    return any(_goes_on(message[start:], words) for start in range(len(message)))


def _goes_on(message: list[str], words: list[str]) -> bool:
    if not words or not message:
        return not words
    if HOLE not in message[0]:
        return message[0] == words[0] and _goes_on(message[1:], words[1:])
    value = re.compile(".*".join(re.escape(part) for part in message[0].split(HOLE)))
    return any(
        value.fullmatch(" ".join(words[:count])) and _goes_on(message[1:], words[count:])
        for count in range(1, len(words) + 1)
    )


def test_there_are_quotes():
    assert len(QUOTES) >= 10


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_message_is_said(quote):
    for part in quote.split("..."):
        if sentence := part.strip():
            words = sentence.split()
            assert len(words) > 3
            assert any(_says(message, words) for message in MESSAGES), f"nobody says {sentence!r}"
