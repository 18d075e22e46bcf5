"""Messages that the docs quote exist in the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUOTE = re.compile(r"(?:^> .+\n)+", re.MULTILINE)  # a quote may be wrapped
QUOTES = [
    pytest.param(" ".join(quote.replace("> ", "").split()), id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for number, quote in enumerate(QUOTE.findall(page.read_text(encoding="utf-8")))
]
HOLE = "\0"  # stands for a value in a message


def _messages() -> list[list[str]]:
    """Return the words of each string in the source, with a hole for each value."""
    strings = []
    for path in (ROOT / "src" / "medcam").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else HOLE for p in node.values]
                strings.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.append(re.sub(r"\{\w+\}", HOLE, node.value))
    texts = [text.split() for text in strings]
    return [words for words in texts if any(HOLE not in word for word in words)]


MESSAGES = _messages()


def _contains(message: list[str], words: list[str]) -> bool:
    """Return whether the words occur in the message in this order; a hole matches any words."""
    return any(_starts_with(message[start:], words) for start in range(len(message)))


def _starts_with(message: list[str], words: list[str]) -> bool:
    if not words or not message:
        return not words
    if HOLE not in message[0]:
        return message[0] == words[0] and _starts_with(message[1:], words[1:])
    value = re.compile(".*".join(re.escape(part) for part in message[0].split(HOLE)))
    return any(
        value.fullmatch(" ".join(words[:count])) and _starts_with(message[1:], words[count:])
        for count in range(1, len(words) + 1)
    )


def test_there_are_quotes():
    assert len(QUOTES) >= 10


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_message_exists(quote):
    for part in quote.split("..."):
        if sentence := part.strip():
            words = sentence.split()
            assert len(words) > 3
            assert any(_contains(message, words) for message in MESSAGES), (
                f"no message: {sentence!r}"
            )
