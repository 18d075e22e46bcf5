"""The user's own code, named on the command line: a model, a preprocessing, a method."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from medcam.errors import InputError, unknown_name
from medcam.files.paths import is_file

_KINDS = {"--model": "factory", "--prepare": "function", "--method": "method"}
"""What the object is that an option names."""


def find_object(spec: str, option: str = "--model") -> Any:
    """Return the object that ``package.module:name`` or ``path/to/file.py:name`` names.

    The current folder, and that of the file, become importable for the whole process, as for a
    script.

    Args:
        spec: The name.
        option: The option that it was given with, for messages.

    Raises:
        InputError: There is no such module, file or name, or the code raises an error.
    """
    kind = _KINDS.get(option, "name")
    module_name, colon, attributes = spec.rpartition(":")
    if not colon or not module_name or not attributes:
        raise InputError(
            f"{option} {spec!r} is not MODULE:{kind.upper()}: write package.module:{kind} or "
            f"path/to/file.py:{kind}."
        )
    by_file = module_name.endswith(".py")
    value: Any = _from_file(Path(module_name), option) if by_file else _from_name(module_name)
    for attribute in attributes.split("."):
        if not hasattr(value, attribute):
            public = [name for name in dir(value) if not name.startswith("_")]
            more = f"It is looked for in {module_name!r}."
            raise unknown_name(kind.capitalize(), attribute, public, more=more)
        value = getattr(value, attribute)
    return value


def make_importable(folder: Path, *, first: bool = False) -> None:
    """Add a folder to the import path for good, since a model may import when it runs.

    Args:
        folder: The folder.
        first: Whether its files take precedence over installed packages, as those beside a script
            do. Those of the current folder do not: a ``nibabel.py`` that lies there is not run.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0 if first else len(sys.path), str(folder))


def called_exit(error: SystemExit) -> str:
    """Return how a program that is no library ended itself, and what to do."""
    code = "" if error.code is None else repr(error.code)
    return (
        f"it called sys.exit({code}). Is it a script? Put what runs it under "
        "if __name__ == '__main__':"
    )


def _from_name(name: str) -> ModuleType:
    make_importable(Path.cwd())
    try:
        return importlib.import_module(name)
    except SystemExit as error:
        raise InputError(f"The module {name!r} cannot be imported: {called_exit(error)}") from error
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"The module {name!r} cannot be imported: {type(error).__name__}: {error}. It is "
            f"looked for in '{Path.cwd()}' and among the installed packages."
        ) from error


def _from_file(path: Path, option: str) -> ModuleType:
    if not is_file(path):
        raise InputError(f"The file '{path}' of {option} does not exist.")
    make_importable(path.resolve().parent, first=True)
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path.resolve()):
        return loaded
    name = path.stem if loaded is None else f"{path.stem}_of_user"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"'{path}' is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        del sys.modules[name]
        reason = f"{type(error).__name__}: {error}."
        if isinstance(error, SystemExit):
            reason = called_exit(error)
        raise InputError(f"The file '{path}' cannot be run: {reason}") from error
    return module
