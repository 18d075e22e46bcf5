"""The JSON file beside a map, from which anybody can read how it was made.

It is written last, when all other files of a case are there: so it also marks the case as done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from medcam.errors import InputError, InputTypeError
from medcam.files.atomic import write_atomically

SCHEMA = "medcam.provenance/1"
"""What a record says of its own form; the number rises when an entry changes its meaning."""


def write_sidecar(path: str | os.PathLike[str], record: Mapping[str, object]) -> Path:
    """Writes a record as JSON, at once and whole. Write it after all that it speaks of.

    Args:
        path: The file, ending in ``.json``.
        record: Of `provenance`.

    Raises:
        InputError: Another ending, or numbers that are NaN or infinite.
        InputTypeError: Something that JSON cannot hold.
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
        raise InputError(f"'{path}' does not end in '.json': a record is saved as JSON.")
    values = plain_values(record, "record")
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return write_atomically(path, lambda temporary: _write(temporary, text))


def read_sidecar(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a record back.

    Raises:
        InputError: No such file, no JSON, or a record of another kind or of a later version.
    """
    path = Path(path)

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{path}' is not a record of medcam: {error}.") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"'{path}' is not a record that this version of medcam knows: its schema is "
            f"{schema!r}, not {SCHEMA!r}."
        )
    return dict(record)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def plain_values(value: object, name: str) -> Any:
    """What JSON can hold, of what people hand over: arrays as lists, paths as text.

    Args:
        value: Numbers, text, arrays, tensors, paths, and lists, sets and dicts of these.
        name: What it is, in the error.

    Raises:
        InputError: NaN or infinity.
        InputTypeError: Something else.

    Example:
        >>> plain_values({"roi_size": (96, np.int64(96)), "at": Path("a")}, "windows")
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
        return {str(key): plain_values(part, f"{name}.{key}") for key, part in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple | range):
        return [plain_values(part, f"{name}[{index}]") for index, part in enumerate(value)]
    raise InputTypeError(
        f"{name} is {type(value).__name__}, which a JSON record cannot hold: give numbers, text, "
        "lists or dicts."
    )
