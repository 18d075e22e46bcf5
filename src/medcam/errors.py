"""Errors and warnings of medcam: what to catch, and what each one means.

Each message says what was given, what is allowed and what to do. One ``except MedcamError`` catches
every error::

    MedcamError
    ├── InputError       (ValueError)    a value that cannot be explained, scored or saved
    │   ├── UnknownNameError             an unknown layer, method or metric; lists the nearest names
    │   ├── TargetError                  a class, region or callable that does not fit the output
    │   └── MaskError                    a mask of another shape, or not 0/1
    ├── InputTypeError   (TypeError)     an object of a type that is not accepted
    ├── NoMapError       (RuntimeError)  the model ran, but no valid map can be made of it
    ├── SaveError        (OSError)       a file could not be written; nothing half-written is left
    └── MissingPackageError (ImportError) an optional package, with the command that installs it

    MedcamWarning        (UserWarning)   the map is valid, but has to be read with care

`warn`, `unknown_name` and `require` issue or build them; they are private to the package.
"""

from __future__ import annotations

import difflib
import importlib
import sys
import warnings
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "InputError",
    "InputTypeError",
    "MaskError",
    "MedcamError",
    "MedcamWarning",
    "MissingPackageError",
    "NoMapError",
    "SaveError",
    "TargetError",
    "UnknownNameError",
]


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
    """An object of a type that is not accepted."""


class NoMapError(MedcamError, RuntimeError):
    """The model ran, but no valid attention map can be made of that run."""


class SaveError(MedcamError, OSError):
    """A file could not be written; nothing half-written is left behind."""


class MissingPackageError(MedcamError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""


class MedcamWarning(UserWarning):
    """The result is valid, but has to be read with care."""


def warn(message: str) -> None:
    """Issue a `MedcamWarning` at the line of the user's code that called medcam."""
    internal = ("medcam", "torch.", "jaxtyping", "contextlib", "functools")
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(internal):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, MedcamWarning, stacklevel=level)


def unknown_name(
    kind: str, name: object, known: Iterable[str], *, more: str = ""
) -> UnknownNameError:
    """Return the error for a name that does not exist, with the nearest names that do.

    Args:
        kind: The kind of name, e.g. ``"Layer"``.
        name: The name as given.
        known: The names that exist.
        more: A closing sentence, e.g. how to list the names.
    """
    names = list(known)
    by_folded = {known_name.casefold(): known_name for known_name in names}
    same = by_folded.get(str(name).casefold())
    near = [same] if same else difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    if near:
        hint = f"Did you mean {' or '.join(map(repr, near))}?"
    elif len(names) <= 24:
        hint = f"Known: {', '.join(names)}."
    else:
        hint = f"{len(names)} names are known, among them {', '.join(names[:6])}."
    return UnknownNameError(f"{kind} {name!r} does not exist. {hint} {more}".rstrip())


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional package; if it is missing, raise the error with the install command.

    Call it inside the function that needs the package, so that medcam can be imported without it.

    Args:
        module: The module to import, e.g. ``"highdicom"``.
        extra: The extra of the m3d-cam distribution that installs it, e.g. ``"dicom"``.

    Raises:
        MissingPackageError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"This needs {module!r}, which is not installed: run  pip install 'm3d-cam[{extra}]'"
        ) from error
