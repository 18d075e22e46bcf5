"""The sidecar: the JSON file beside a map that holds its record.

It is written after all other files of a case, so its existence marks the case as complete.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from medcam.errors import InputError, InputTypeError, reason_of
from medcam.files.atomic import write_atomically

SCHEMA = "medcam.provenance/1"
"""The record's schema and its version, which rises if an entry changes its meaning."""


_SURROGATE = re.compile("[\ud800-\udfff]")


def write_sidecar(path: str | os.PathLike[str], record: Mapping[str, object]) -> Path:
    """Write a record as JSON in one atomic step. Write it after the files that it lists.

    Args:
        path: The file, ending in ``.json``.
        record: The record, as `provenance` returns it.

    Raises:
        InputError: The ending is another, or a number is NaN or infinite.
        InputTypeError: A value is of a type that JSON cannot hold.
        SaveError: The file could not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_sidecar(Path(folder, "case.json"), {"schema": SCHEMA, "seed": 3})
        ...     read_sidecar(path)["seed"]
        3
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise InputError(f"'{path}' does not end in '.json': records are saved as JSON.")
    values = to_json_values(record, "record")
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # bytes of file names that are not UTF-8, which JSON holds as escapes
    text = _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return write_atomically(path, lambda temporary: _write_text(temporary, text))


def read_sidecar(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a record.

    Raises:
        InputError: The file cannot be read, is not JSON, or has another schema.
    """
    path = Path(path)

    def refuse(name: str) -> None:  # Python's parser accepts NaN and Infinity
        raise ValueError(f"{name} is not JSON")

    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"'{path}' is not a record of medcam: {reason_of(error)}") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"'{path}' is not a record that this version of medcam can read: its schema is "
            f"{schema!r}, not {SCHEMA!r}."
        )
    return dict(record)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def to_json_values(value: object, name: str) -> Any:
    """Return a value in types that JSON can hold: arrays become lists, paths become text.

    Args:
        value: Numbers, text, arrays, tensors, paths, and lists, sets and dicts of these.
        name: What the value is, as the subject of error messages.

    Raises:
        InputError: A number is NaN or infinite.
        InputTypeError: The value, or a part of it, is of another type.

    Example:
        >>> to_json_values({"roi_size": (96, np.int64(96)), "at": Path("a")}, "windows")
        {'roi_size': [96, 96], 'at': 'a'}
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().tolist()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    elif isinstance(value, os.PathLike):
        value = Path(value).as_posix()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not np.isfinite(value):
            raise InputError(f"{name} is {value}: a record holds finite numbers only.")
        return value
    if isinstance(value, Mapping):
        return {str(key): to_json_values(part, f"{name}.{key}") for key, part in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple | range):
        return [to_json_values(part, f"{name}[{index}]") for index, part in enumerate(value)]
    raise InputTypeError(
        f"{name} is {type(value).__name__}, which a JSON record cannot hold: give numbers, text, "
        "lists or dicts."
    )
