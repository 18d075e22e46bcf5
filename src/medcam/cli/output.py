"""The command's own output, apart from what the user's code prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

_own: list[Any] = []


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Send what is printed within the context to stderr; `echo` still writes to stdout.

    A model's file may print anything, when it is imported and when it runs; with ``--json`` that
    would be no JSON.
    """
    _own.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _own.pop()


def stdout() -> Any:
    """Return the stream of the command's own output."""
    return _own[-1] if _own else sys.stdout


def echo(text: str) -> None:
    """Print a line of the command's own output; what the terminal cannot show is escaped."""
    stream = stdout()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
