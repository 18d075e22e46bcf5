"""Files of ``torch.save``, checked before PyTorch reads them: they take no more than they hold."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from medcam.errors import InputError, foreign_errors

_MAX_INFLATION = 4  # times the file's size; PyTorch does not compress
_PICKLES = 5  # before the values of a file in the format of PyTorch up to 1.5
# What ``weights_only`` lets a file make of a number alone, of any size.
_OF_ANY_SIZE = re.compile(r"(?:\S+ )?(?:bytearray|\w*Tensor)")


def load_torch(path: Path, what: str, *, trust: bool) -> Any:
    """Return the content of a file of ``torch.save``, on the CPU.

    Args:
        path: The file.
        what: The beginning of the error message.
        trust: Whether it may run code; otherwise ``weights_only=True``.

    Raises:
        InputError: It is damaged, would take far more memory than its size, or holds more than
            plain data; the cause is PyTorch's error.
    """
    if not trust:
        _check_size(path, what)
    with foreign_errors(what):
        return torch.load(path, map_location="cpu", weights_only=not trust)


def _check_size(path: Path, what: str) -> None:
    """Raise if a file would need far more memory than its size on the disk."""
    with path.open("rb") as stream:
        is_archive = stream.read(2) == b"PK"
    if not is_archive:
        with path.open("rb") as stream:
            for _ in range(_PICKLES):
                if not _is_plain(stream, path):
                    return
        return
    with foreign_errors(what), zipfile.ZipFile(path) as archive:
        items = archive.infolist()
        size = sum(item.file_size for item in items)
        if size > _MAX_INFLATION * path.stat().st_size + 2**20:
            raise InputError(
                f"'{path}' is compressed and would take {size / 2**30:.1f} GiB of memory: PyTorch "
                "does not compress weights, so it is damaged or was made to exhaust the memory."
            )
        for item in items:
            if item.filename.endswith("data.pkl"):
                _is_plain(io.BytesIO(archive.read(item)), path)


def _is_plain(stream: Any, path: Path) -> bool:
    """Return whether a pickle follows; raise if it makes objects of any size of a number.

    What cannot be parsed is left to PyTorch, which says what is wrong.
    """
    try:
        named = [
            argument
            for operation, argument, _ in pickletools.genops(stream)
            if operation.name in ("GLOBAL", "INST") or "UNICODE" in operation.name
        ]
    except Exception:  # noqa: BLE001  # damaged: `torch.load` tells
        return False
    large = [name for name in named if isinstance(name, str) and _OF_ANY_SIZE.fullmatch(name)]
    if large:
        raise InputError(
            f"'{path}' holds more than weights ({large[0]}), which takes any amount of memory. If "
            "it is your own file, add --trust (trust=True)."
        )
    return True
