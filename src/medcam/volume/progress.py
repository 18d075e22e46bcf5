"""A progress bar, or whoever else wants to know how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from medcam.errors import InputTypeError


@contextmanager
def ticking(
    progress: bool | Callable[[int, int], None], title: str, total: int
) -> Iterator[Callable[[int], None]]:
    """Within it, a function to be told how many windows were done.

    Args:
        progress: True: a bar on the standard error; a function: told ``(done, total)``.
        title: What is done.
        total: How many windows there are to do.
    """
    done = 0
    if not isinstance(progress, bool) and not callable(progress):
        raise InputTypeError(f"progress={progress!r}: give True, False or a function (done, of).")
    if callable(progress):
        told = progress

        def tell(count: int) -> None:
            nonlocal done
            done += count
            told(done, total)

        yield tell
        return
    if not progress or not total:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
