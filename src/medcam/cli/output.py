"""The command's own output, apart from what the user's code prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

_own: list[Any] = []


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Send what is printed within the context to stderr; `echo` still writes to stdout.

    A model's file may print anything, when it is imported and when it runs; with ``--json`` that
    would be no JSON.
    """
    with ExitStack() as stack:
        own = sys.stdout
        if _is_first_file(own):
            own.flush()
            number = os.dup(1)  # also what other programs and libraries print, below Python
            stack.callback(os.close, number)
            stack.callback(os.dup2, number, 1)
            os.dup2(2, 1)
            own = stack.enter_context(
                open(number, "w", encoding=own.encoding, closefd=False)  # a number
            )
        _own.append(own)
        stack.callback(_own.pop)
        stack.enter_context(redirect_stdout(sys.stderr))
        yield


def _is_first_file(stream: Any) -> bool:
    """Return whether a stream writes to the process' standard output, not to a test's buffer."""
    try:
        return bool(stream.fileno() == 1)
    except (AttributeError, OSError, ValueError):
        return False


def stdout() -> Any:
    """Return the stream of the command's own output."""
    return _own[-1] if _own else sys.stdout


def echo(text: str) -> None:
    """Print a line of the command's own output; what the terminal cannot show is escaped."""
    stream = stdout()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
