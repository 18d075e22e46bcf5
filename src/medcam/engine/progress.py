"""Progress reporting: a bar or a callback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from medcam.errors import InputTypeError

Progress = bool | Callable[[int, int], None]
"""True for a bar on the standard error, or a function ``(done, total)``."""

Tick = Callable[[int], None]
"""Called after each group of windows or of changed images, with their number."""


def check_progress(progress: object) -> None:
    """Raise unless progress is reported as a value allows.

    Raises:
        InputTypeError: It is neither a bool nor a function.
    """
    if not isinstance(progress, bool) and not callable(progress):
        raise InputTypeError(
            f"progress={progress!r}: give True, False or a function (done, total)."
        )


@contextmanager
def progress_of(progress: Progress, title: str, total: int) -> Iterator[Tick]:
    """Report progress within the context.

    Args:
        progress: True for a bar, a function, or False.
        title: The bar's title.
        total: The number of windows, or of changed images, to do.

    Yields:
        The function to call after each group of them.

    Raises:
        InputTypeError: ``progress`` is neither a bool nor a function.
    """
    done = 0
    check_progress(progress)
    if callable(progress):
        callback = progress

        def tick(count: int) -> None:
            nonlocal done
            done += count
            callback(done, total)

        yield tick
        return
    if not progress or not total:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
