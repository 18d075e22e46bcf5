"""Names of a case's files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from medcam.errors import InputError
from medcam.files import safe_name
from medcam.maps import AttentionMap

_ESCAPED = re.compile(r"[\w. \-]+~[0-9a-f]{12}")  # results of safe_name, not to be escaped twice
_MAX_STEM = 200  # characters of a file's name without its ending


def safe_prefix(prefix: str | os.PathLike[str]) -> Path:
    """Return a prefix whose last part is a valid file name on every file system.

    Raises:
        InputError: The prefix is a folder and names no case.

    Example:
        >>> safe_prefix("out/case 1").name, safe_prefix("out/a:b").name
        ('case 1', 'a_b~6783a31eabf6')
    """
    text = os.fspath(prefix)
    path = Path(text)
    if text.endswith(("/", os.sep)) or path.name in ("", "."):
        raise InputError(
            f"prefix='{text}' is a folder: add a name for the case, '{path / 'case'}'."
        )
    if _ESCAPED.fullmatch(path.name):
        return path
    return path.with_name(safe_name(path.name))


def append_to_name(path: Path, text: str) -> Path:
    """Return a path with text appended to its last part; `Path.with_suffix` would drop ``.1``.

    Example:
        >>> append_to_name(Path("case.1"), ".json").name
        'case.1.json'
    """
    return path.with_name(path.name + text)


def map_stems(prefix: Path, maps: Sequence[AttentionMap]) -> list[Path]:
    """Return the paths of the maps' files without endings, one for each map and target.

    The names are ``PREFIX_METHOD``, then ``_LAYER`` if there are several layers, and the target if
    the map has several.
    """
    layers = {map_.layer for map_ in maps if map_.layer is not None}
    stems = []
    for map_ in maps:
        parts = [prefix.name, safe_name(map_.method)]
        if len(layers) > 1 and map_.layer is not None:
            parts.append(safe_name(map_.layer))
        for target_parts in _target_parts(map_):
            stem = "_".join([*parts, *target_parts])
            stems.append(prefix.with_name(stem if len(stem) <= _MAX_STEM else safe_name(stem)))
    return stems


def _target_parts(map_: AttentionMap) -> list[list[str]]:
    """Return the name of each target: none for a single one, its class if that is unique."""
    count = map_.values.shape[1]
    if count == 1:
        return [[]]
    classes = [] if map_.target.classes is None else map_.target.classes[0].tolist()
    if len(set(classes)) == count:
        return [[f"class{number}"] for number in classes]
    return [[f"target{number}"] for number in range(count)]
