"""nnU-Net's printed output, sent to medcam's log."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

_log = logging.getLogger("medcam")


@contextlib.contextmanager
def prints_to_log() -> Iterator[io.StringIO]:
    """Send what is printed within the context to the log, at level DEBUG.

    Yields:
        The buffer that holds the printed text.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield printed
    finally:
        for line in printed.getvalue().splitlines():
            _log.debug("nnU-Net: %s", line)
