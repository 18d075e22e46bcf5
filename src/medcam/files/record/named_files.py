"""Files that a record names by path and digest, and where they are found again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from medcam.errors import InputError
from medcam.files.paths import is_file
from medcam.files.record.digests import sha256_of_file


@dataclass(frozen=True)
class NamedFile:
    """A file of a record that was found again.

    Attributes:
        role: What the file is, e.g. ``"image"``.
        path: Where it is now.
        recorded: The SHA-256 that the record names.
        current: The SHA-256 of the file now.
    """

    role: str
    path: Path
    recorded: str
    current: str

    @property
    def is_same(self) -> bool:
        """Whether the content is that of the record."""
        return self.recorded == self.current


def file_entry(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return a file's entry: its path relative to the record's folder, absolute, and its digest.

    Raises:
        InputError: The file cannot be read.
    """
    return {**folder_entry(path, folder), "sha256": sha256_of_file(path)}


def folder_entry(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the entry of a folder, which has no digest.

    Example:
        >>> folder_entry("/data/trained", "/data/out")["path"]
        '../trained'
    """
    absolute = Path(path).absolute()  # not resolved: a link keeps its name
    return {"path": relative_path(absolute, Path(folder).absolute()), "absolute": str(absolute)}


def relative_path(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Return a path relative to a folder; only its name if there is no such path."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on Windows there is no relative path between two drives
        return Path(path).name


def find_again(
    role: str,
    entry: Mapping[str, Any],
    folder: Path,
    *,
    instead: Path | None = None,
    search: Path | None = None,
    advice: str = "",
) -> NamedFile:
    """Return where a file of a record is now: the first place that has the recorded content.

    The places are the path relative to the record, the absolute path, and the file's name in
    ``search``. If the content is nowhere the same, it is the first file that exists.

    Args:
        role: What the file is, e.g. ``"image"``.
        entry: The entry, as `file_entry` returns it.
        folder: The record's folder.
        instead: The user's own path, which is then the only place.
        search: A further folder.
        advice: How to say where the file is, as the end of the error message.

    Raises:
        InputError: There is no such file, or it cannot be read.
    """
    recorded = str(entry["sha256"])
    places = places_of(entry, folder, search) if instead is None else [instead]
    files = [NamedFile(role, place, recorded, sha256_of_file(place)) for place in unique(places)]
    if not files:
        raise InputError(f"The {role} '{shown(places[0])}' does not exist. {advice}".rstrip())
    return next((file for file in files if file.is_same), files[0])


def unique(places: list[Path]) -> list[Path]:
    """Return the places that are files, each file once."""
    files: dict[str, Path] = {}
    for place in places:
        if is_file(place):
            files.setdefault(os.path.realpath(place), place)
    return list(files.values())


def places_of(entry: Mapping[str, Any], folder: Path, search: Path | None = None) -> list[Path]:
    """Return the paths where an entry's file or folder may be; never one on another machine."""
    names = [str(entry["path"]), str(entry["absolute"])]
    places = [
        Path(os.path.normpath(folder / name))
        for name in names
        if not name.startswith(("\\\\", "//"))
    ]
    if search is not None:
        places.append(search / last_part(names[1]))
    if not places:
        raise InputError(
            f"The record names '{shown(names[1])}' on another machine: give the path yourself."
        )
    return places


def last_part(path: str) -> str:
    r"""Return the last part of a path of any operating system.

    Example:
        >>> last_part("/data/a.nii"), last_part(r"C:\data\a.nii")
        ('a.nii', 'a.nii')
    """
    name = PureWindowsPath(PurePosixPath(path).name).name
    return name if name not in ("", "..") else "unnamed"


def shown(value: object, most: int = 300) -> str:
    """Return text of a record for a message: at most so many letters, no control characters.

    Example:
        >>> shown(f"a{chr(27)}[2J", 3) == f"a{chr(92)}x1b[..."
        True
    """
    text = str(value)
    text = text if len(text) <= most else f"{text[:most]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
