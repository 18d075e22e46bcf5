"""How a command ends: exit code 0 for success, 1 for a failure, 2 for a wrong option; one line."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import typer

from medcam.cli.output import prints_to_stderr
from medcam.cli.own_code import called_exit
from medcam.errors import InputError, InputTypeError, MedcamError, MedcamWarning

_OPTIONS = {
    "as_channels=True": "--channels",
    "as_channels=False": "--slices",
    "volume=": "--volume ",
    "medcam.get_layers(model)": "`medcam layers`",
    "previous= (--prev-stage)": "--prev-stage",
    "trust=True (--trust)": "--trust",
}
"""Names in messages for Python, and the option of the command line for each."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def plain_errors(command: _Command) -> _Command:
    """Print medcam's errors and warnings as one line on stderr.

    The exit code is 2 for errors about what was given, 1 for all others. Errors that are not
    medcam's keep their traceback. What the user's code prints goes to stderr.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _warnings_as_lines(), prints_to_stderr():
            try:
                return command(*args, **kwargs)
            except MedcamError as error:
                typer.echo(f"Error: {in_options(str(error))}", err=True)
                is_usage = isinstance(error, InputError | InputTypeError)
                raise typer.Exit(2 if is_usage else 1) from error
            except SystemExit as error:  # medcam's commands end with typer.Exit
                typer.echo(
                    f"Error: The model's code ended the program: {called_exit(error)}", err=True
                )
                raise typer.Exit(2) from error
            except KeyboardInterrupt as stop:
                typer.echo("Stopped.", err=True)
                raise typer.Exit(130) from stop

    return run  # type: ignore[return-value]  # the same signature, by functools.wraps


def in_options(message: str) -> str:
    """Return a message with the names of options in place of Python's arguments.

    Example:
        >>> in_options("say which one is meant (volume=0 to 3)")
        'say which one is meant (--volume 0 to 3)'
    """
    for argument, option in _OPTIONS.items():
        message = message.replace(argument, option)
    return message


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print medcam's warnings as one line, without a line of code."""
    with warnings.catch_warnings():
        default_show = warnings.showwarning

        def show(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
            if issubclass(category, MedcamWarning):
                sys.stderr.write(f"Warning: {message}\n")
            elif not _is_of_reader(args):
                default_show(message, category, *args, **kwargs)

        warnings.showwarning = show
        yield


_READERS = ("PIL", "nibabel", "SimpleITK", "numpy")


def _is_of_reader(arguments: tuple[Any, ...]) -> bool:
    """Return whether a warning comes from a library that reads files: the error says it all."""
    parts = Path(str(arguments[0] if arguments else "")).parts
    return any(name in parts for name in _READERS)
