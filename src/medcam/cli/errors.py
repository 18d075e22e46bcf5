"""How a command ends: 0 good, 1 it failed, 2 something given is wrong; one line says what."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from medcam.errors import InputError, InputTypeError, MedcamError, MedcamWarning

_OPTIONS = {
    "as_channels=True": "--channels",
    "as_channels=False": "--slices",
    "volume=": "--volume ",
    "medcam.get_layers(model)": "`medcam layers`",
    "previous= (--prev-stage)": "--prev-stage",
    "trust=True (--trust)": "--trust",
}
"""What messages call by its name in Python, and its name on the command line."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def speaks_plainly(command: _Command) -> _Command:
    """A command whose errors and warnings, if they are medcam's, are a line for people on stderr.

    Errors about what was given end with the exit code 2, all others with 1. What is not medcam's
    keeps its traceback.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _told_warnings():
            try:
                return command(*args, **kwargs)
            except MedcamError as error:
                typer.echo(f"Error: {in_options(str(error))}", err=True)
                given = isinstance(error, InputError | InputTypeError)
                raise typer.Exit(2 if given else 1) from error
            except KeyboardInterrupt as stop:
                typer.echo("Stopped.", err=True)
                raise typer.Exit(130) from stop

    return run  # type: ignore[return-value]  # the same signature, by functools.wraps


def in_options(message: str) -> str:
    """A message with the names that things have on the command line.

    Example:
        >>> in_options("say which one is meant (volume=0 to 3)")
        'say which one is meant (--volume 0 to 3)'
    """
    for python, option in _OPTIONS.items():
        message = message.replace(python, option)
    return message


@contextmanager
def _told_warnings() -> Iterator[None]:
    """Shows medcam's warnings without the line of code that led to them."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: Any, *where: Any, **more: Any) -> None:
            if issubclass(category, MedcamWarning):
                sys.stderr.write(f"Warning: {message}\n")
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield
