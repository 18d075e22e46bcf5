"""Every error and warning of the package.

Each says what was given, what is allowed and what to do. One ``except MedcamError`` catches all::

    MedcamError
    ├── InputError       (ValueError)    a value that cannot be explained, scored or saved
    │   ├── UnknownNameError             an unknown layer, method, metric: with the nearest names
    │   ├── TargetError                  a class, region or callable that does not fit the output
    │   └── MaskError                    a mask of another shape, or not 0/1
    ├── InputTypeError   (TypeError)     an object of a kind that is not accepted
    ├── NoMapError       (RuntimeError)  the model ran, but no valid map can be made of it
    ├── SaveError        (OSError)       a file could not be written; nothing half-written is left
    └── MissingPackageError (ImportError) an optional package, with the command that installs it

    MedcamWarning        (UserWarning)   the map is right, but you should know something about it
"""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable


class MedcamError(Exception):
    """Any error raised by medcam on purpose."""


class InputError(MedcamError, ValueError):
    """A value that cannot be explained, scored or saved."""


class UnknownNameError(InputError):
    """A layer, method, metric or file kind that does not exist."""


class TargetError(InputError):
    """A target that does not fit the model's output."""


class MaskError(InputError):
    """A ground-truth mask of another shape than the map, or one that is not 0/1."""


class InputTypeError(MedcamError, TypeError):
    """An object of a kind that is not accepted."""


class NoMapError(MedcamError, RuntimeError):
    """The model ran, but no valid attention map can be made of that run."""


class SaveError(MedcamError, OSError):
    """A file could not be written; nothing half-written is left behind."""


class MissingPackageError(MedcamError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""


class MedcamWarning(UserWarning):
    """The result is right, but there is something its reader should know."""


def warn(message: str) -> None:
    """Warns the user, pointing at the line of their own code that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_BETWEEN):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, MedcamWarning, stacklevel=level)


_BETWEEN = ("medcam", "torch.", "jaxtyping", "contextlib", "functools")


def unknown_name(
    kind: str, given: object, known: Iterable[str], *, more: str = ""
) -> UnknownNameError:
    """Builds the error for a name that does not exist, with the nearest ones that do.

    Args:
        kind: What the name stands for, e.g. ``"Layer"``.
        given: The name as given.
        known: The names that exist.
        more: A closing sentence, e.g. how to list the names.
    """
    names = list(known)
    folded = {name.casefold(): name for name in names}
    same = folded.get(str(given).casefold())
    near = [same] if same else difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    if near:
        hint = f"Did you mean {' or '.join(repr(name) for name in near)}?"
    elif len(names) <= 24:
        hint = f"Known: {', '.join(names)}."
    else:
        hint = f"{len(names)} names are known, among them {', '.join(names[:6])}."
    return UnknownNameError(f"{kind} {given!r} does not exist. {hint} {more}".rstrip())
