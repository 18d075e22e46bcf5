"""What the files of a case are called."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from medcam.errors import InputError
from medcam.files import safe_name
from medcam.maps import AttentionMap

_ESCAPED = re.compile(r"[\w. \-]+~[0-9a-f]{12}")  # what safe_name makes, which stays as it is
_LONGEST = 200  # letters of a file's name without its ending


def as_prefix(given: str | os.PathLike[str]) -> Path:
    """Gives a prefix whose last part every file system takes.

    Raises:
        InputError: It names no case.

    Example:
        >>> as_prefix("out/case 1").name, as_prefix("out/a:b").name
        ('case 1', 'a_b~6783a31eabf6')
    """
    text = os.fspath(given)
    path = Path(text)
    if text.endswith(("/", os.sep)) or path.name in ("", "."):
        raise InputError(
            f"prefix='{text}' is a folder: say what the case is called, '{path / 'case'}'."
        )
    if _ESCAPED.fullmatch(path.name):
        return path
    return path.with_name(safe_name(path.name))


def after(prefix: Path, more: str) -> Path:
    """The path that goes on so; what is behind a dot in a prefix is part of its name."""
    return prefix.with_name(prefix.name + more)


def stems_of(prefix: Path, maps: Sequence[AttentionMap]) -> list[Path]:
    """The names of the maps' files without endings, in the order of a report's maps."""
    layers = {one.layer for one in maps if one.layer is not None}
    stems = []
    for one in maps:
        parts = [prefix.name, safe_name(one.method)]
        if len(layers) > 1 and one.layer is not None:
            parts.append(safe_name(one.layer))
        for ending in _endings(one):
            stem = "_".join([*parts, *ending])
            stems.append(prefix.with_name(stem if len(stem) <= _LONGEST else safe_name(stem)))
    return stems


def _endings(one: AttentionMap) -> list[list[str]]:
    """What tells a map's targets apart: their classes, if each is another one."""
    count = one.values.shape[1]
    if count == 1:
        return [[]]
    classes = [] if one.target.classes is None else one.target.classes[0].tolist()
    if len(set(classes)) == count:
        return [[f"class{number}"] for number in classes]
    return [[f"target{number}"] for number in range(count)]
