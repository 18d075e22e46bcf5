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

`warn`, `unknown_name`, `image_error`, `require`, `foreign_errors`, `chain_of` and the rest issue,
build and tell them; they are private to the package.
"""

from __future__ import annotations

import difflib
import importlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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

_MAX_REASON = 300  # letters
_SAME_DEPTH = 0.1  # by how much a name with as many dots is more alike


class MedcamError(Exception):
    """Any error raised by medcam on purpose."""


class InputError(MedcamError, ValueError):
    """A value that cannot be explained, scored or saved."""

    is_of_image = False
    """Whether it is about an input of the model that no map can lie on: its shape, type, or NaN."""


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


def image_error(message: str) -> InputError:
    """Return the error for an input of the model that no map can lie on; the model may take it."""
    error = InputError(message)
    error.is_of_image = True
    return error


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
    near = [same] if same else _nearest(str(name)[:200], names)
    if near:
        hint = f"Did you mean {' or '.join(map(repr, near))}?"
    elif not names:
        hint = "There is none."
    elif len(names) <= 24:
        hint = f"Known: {', '.join(names)}."
    else:
        hint = f"{len(names)} names are known, among them {', '.join(names[:6])}."
    shown = repr(name) if len(str(name)) <= _MAX_REASON else f"{str(name)[:_MAX_REASON]!r}..."
    return UnknownNameError(f"{kind} {shown} does not exist. {hint} {more}".rstrip())


def _nearest(name: str, names: list[str]) -> list[str]:
    """Return the three most similar names; ones with as many dots count as nearer.

    Example:
        >>> _nearest("stage4", ["stage1", "stage2", "stage3", "stage2.4", "stage3.4"])
        ['stage3', 'stage2', 'stage1']
    """
    close = difflib.get_close_matches(name, names, n=max(len(names), 1), cutoff=0.5)
    matcher = difflib.SequenceMatcher(b=name)

    def likeness(other: str) -> float:
        matcher.set_seq1(other)
        return matcher.ratio() + _SAME_DEPTH * (other.count(".") == name.count("."))

    return sorted(close, key=likeness, reverse=True)[:3]


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


@contextmanager
def foreign_errors(
    message: str, advice: str = "", kind: type[MedcamError] = InputError
) -> Iterator[None]:
    """Raise any error of other people's code as one of medcam's, in one line.

    It is for parsers of files that may be damaged, and for code that a file describes: both may
    raise an error of any class. Errors of medcam pass through.

    Args:
        message: What cannot be done, e.g. ``"'a.nii' cannot be read"``; the reason follows.
        advice: A closing sentence.
        kind: The error's class.

    Example:
        >>> with foreign_errors("'a.txt' cannot be read", "Is it damaged?"):
        ...     int("x")
        Traceback (most recent call last):
        medcam.errors.InputError: 'a.txt' cannot be read: invalid literal for int() with base 10: \
'x'. Is it damaged?
    """
    try:
        yield
    except MedcamError:
        raise
    except Exception as error:
        raise kind(f"{message}: {reason_of(error)} {advice}".rstrip()) from error


def reason_of(error: BaseException) -> str:
    """Return an error's message as one line of at most 300 letters that ends in a full stop.

    Example:
        >>> reason_of(KeyError("shape")), reason_of(EOFError())
        ("KeyError: 'shape'.", 'EOFError.')
    """
    text = " ".join(str(error).split())
    if not text or isinstance(error, (LookupError, AttributeError, TypeError, AssertionError)):
        text = f"{type(error).__name__}{': ' if text else ''}{text}"
    return f"{text[:_MAX_REASON].rstrip(' .')}{'...' if len(text) > _MAX_REASON else '.'}"


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that it follows from, says that there is not enough memory.

    PyTorch raises a class of its own for GPUs, and a plain ``RuntimeError`` for the CPU.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("a shape"))
        (True, False)
    """
    for link in chain_of(error):
        if isinstance(link, MemoryError) or type(link).__name__ == "OutOfMemoryError":
            return True
        if isinstance(link, RuntimeError) and any(
            text in str(link) for text in ("DefaultCPUAllocator", "not enough memory")
        ):
            return True
    return False


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it follows from, each once.

    The chain may be a circle: ``raise failure.__cause__`` in the handler of ``failure`` makes one.

    Example:
        >>> error = ValueError("second")
        >>> error.__cause__ = KeyError("first")
        >>> error.__cause__.__cause__ = error
        >>> [str(link) for link in chain_of(error)]
        ['second', "'first'"]
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
