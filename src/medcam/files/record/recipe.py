"""The recipe in a record: the call that made the maps, with the files and the code that it needs.

It lies under ``extra.recipe``. Reading it runs nothing: a record may be written by anybody.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcam.errors import InputError, foreign_errors
from medcam.files.paths import is_file
from medcam.files.record.named_files import file_entry, folder_entry, shown

_MAX_MODULES = 200
Entries = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The call that made the maps of a record.

    Attributes:
        command: The command, ``"explain"`` or ``"nnunet explain"``.
        options: Its options by name.
        files: The entries of its files, by role.
        trust: Whether it read files that can run code.
    """

    command: str
    options: Mapping[str, Any]
    files: Mapping[str, Entries]
    trust: bool

    def trusts(self, consent: bool, *own: object) -> bool:
        """Return whether files may run code: the user consents, and the record needed it, too.

        Otherwise consent to a record's code would be consent to pickles that nothing mentioned.

        Args:
            consent: ``--trust``.
            *own: The paths that the user gave in place of the record's; any of them counts.
        """
        return consent and (self.trust or any(own))

    def entries(self, role: str) -> Entries:
        """Return the entries of a role; none if the record has no such role."""
        return self.files.get(role, ())


def recipe_values(
    command: str,
    options: Mapping[str, Any],
    files: Mapping[str, Iterable[Mapping[str, Any]]],
    *,
    folder: Path,
    trust: bool,
) -> dict[str, Any]:
    """Return a recipe as values of the record; roles without a file are left out.

    Args:
        command: See `Recipe`.
        options: See `Recipe`.
        files: See `Recipe`.
        folder: The folder of the record.
        trust: See `Recipe`.
    """
    listed = {role: [dict(entry) for entry in entries] for role, entries in files.items()}
    return {
        "command": command,
        "options": dict(options),
        "trust": trust,
        "files": {
            "working folder": [folder_entry(Path.cwd(), folder)],
            **{role: entries for role, entries in listed.items() if entries},
        },
    }


def read_recipe(record: Mapping[str, Any], path: Path) -> Recipe:
    """Return the recipe of a record.

    Args:
        record: The record.
        path: Its path, for error messages.

    Raises:
        InputError: There is none: the record is of an earlier version, or its maps were made in
            Python; the message says what to do. Or it is damaged.
    """
    with foreign_errors(f"'{path}' is damaged", "Save the case again."):
        maps, recipe = record["maps"], (record.get("extra") or {}).get("recipe")
        missing = [
            what
            for what, is_there in (
                ("the hashes of its maps", bool(maps) and all("sha256" in item for item in maps)),
                ("the device and threads", "environment" in record),
            )
            if not is_there
        ]
        if missing:
            listed = ", ".join([*missing, *([] if recipe else ["the call that made them"])])
            raise InputError(
                f"'{path}' is too old: it was written by a version of medcam that did not record "
                f"{listed}. Explain the image again; its new record can be reproduced."
            )
        if recipe is None:
            raise InputError(
                f"'{path}' holds no call to repeat: its maps were made in Python, by a model that "
                "only your program has. Make the explanation again there, and compare it: "
                f"explanation.compare({str(path)!r})."
            )
        files = {str(role): list(entries) for role, entries in dict(recipe["files"]).items()}
        if not all(isinstance(entry, dict) for entries in files.values() for entry in entries):
            raise ValueError("its files are no entries")
        command, options = recipe["command"], dict(recipe["options"])
    if command not in ("explain", "nnunet explain"):
        raise InputError(
            f"'{path}' was made by '{shown(command)}', which this version of medcam does not know."
        )
    return Recipe(command=command, options=options, files=files, trust=recipe.get("trust") is True)


def code_entries(
    specs: Iterable[tuple[str, str]], folder: str | os.PathLike[str]
) -> list[dict[str, Any]]:
    """Return the entries of the user's code after it was imported.

    Args:
        specs: The options that name code, each with its value, ``module:name`` or ``file.py:name``.
        folder: The record's folder.
    """
    entries = []
    for option, spec in specs:
        file = code_file(spec)
        place: Mapping[str, Any] = {} if file is None else file_entry(file, folder)
        entries.append({"option": option, "spec": spec, **place})
    return entries


def code_file(spec: str) -> Path | None:
    """Return the file of ``module:name`` or ``file.py:name``; None for code that is in no file."""
    module_name = spec.rpartition(":")[0]
    if module_name.endswith(".py"):
        return Path(module_name)
    name = getattr(sys.modules.get(module_name), "__file__", None)
    return None if name is None or not is_file(Path(name)) else Path(name)


def imported_beside(
    code: Iterable[Mapping[str, Any]], folder: str | os.PathLike[str]
) -> list[dict[str, str]]:
    """Return the entries of the modules that were imported from the folders of the user's code.

    Installed packages are known by their versions, not by their files.

    Args:
        code: The result of `code_entries`.
        folder: The record's folder.
    """
    files = [Path(entry["absolute"]).resolve() for entry in code if "absolute" in entry]
    folders = {file.parent for file in files if not _is_installed(file)}
    modules = list(sys.modules.items())
    paths = {
        Path(file).resolve()
        for name, module in modules
        if name.partition(".")[0] != "medcam"
        and (file := getattr(module, "__file__", None)) is not None
        and is_file(Path(file))
    }
    beside = [
        path
        for path in sorted(paths - set(files))
        if not _is_installed(path) and not folders.isdisjoint(path.parents)
    ]
    return [file_entry(path, folder) for path in beside[:_MAX_MODULES]]


def _is_installed(path: Path) -> bool:
    """Return whether a file is that of an installed package."""
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
