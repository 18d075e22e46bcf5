"""NumPy's ``.npy`` files, without pickled objects: reading never runs code from a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, foreign_errors
from medcam.files.atomic import write_atomically
from medcam.files.image import Image, sanitize_values, to_channels


def read_npy(path: Path, *, volume: int | None, as_channels: bool | None) -> Image:
    """Read an array ``[H, W]``, ``[channels, H, W]``, ``[X, Y, Z]`` or ``[channels, X, Y, Z]``.

    See `medcam.files.read_image`. ``as_channels=True`` means that the first axis is the channels;
    ``as_channels=False`` that all three axes are spatial.

    Raises:
        InputError: The file is not ``.npy``, cut off or pickled, has another number of axes, or
            has three or four axes and neither ``volume`` nor ``as_channels`` is given.
    """
    values = _read_array(path)
    shape = list(values.shape)
    if values.ndim not in (2, 3, 4):
        raise InputError(
            f"'{path}' has the shape {shape}: an array is [H, W], [channels, H, W], [X, Y, Z] or "
            "[channels, X, Y, Z]."
        )
    if values.ndim == 2 or (values.ndim == 3 and as_channels is False and volume is None):
        values = values[None]
    elif volume is None and not as_channels:
        or_space = ", or that all three are spatial (as_channels=False)" if values.ndim == 3 else ""
        raise InputError(
            f"'{path}' has the shape {shape}: say that its first axis is the channels "
            f"(as_channels=True), which of them is meant (volume=0, ...){or_space}."
        )
    array = to_channels(
        values[:, None], volume=volume, as_channels=as_channels, path=path, axis="entries"
    )
    return Image(array, paths=(path,))


def read_signal(path: Path) -> Image:
    """Read a 1D signal ``[time]`` or ``[channels, time]``.

    Raises:
        InputError: The file is not ``.npy``, cut off or pickled, has another number of axes, or
            values that are not real numbers.
    """
    values = _read_array(path)
    if values.ndim not in (1, 2):
        raise InputError(
            f"'{path}' has the shape {list(values.shape)}: a signal is [time] or [channels, time]."
        )
    array = values if values.ndim == 2 else values[None]
    return Image(sanitize_values(array, path, fill=0.0), paths=(path,))


def _read_array(path: Path) -> NDArray[np.generic]:
    """Return the one array of a file.

    Raises:
        InputError: The file is not ``.npy``, cut off or pickled.
    """
    with foreign_errors(f"'{path}' cannot be read as a .npy array"), path.open("rb") as stream:
        shape, dtype = _read_header(stream)
        expected = math.prod(shape) * dtype.itemsize
        left = path.stat().st_size - stream.tell()
        if left < expected and not dtype.hasobject:
            raise ValueError(f"{expected} bytes are announced, and {left} are there")
        stream.seek(0)
        values: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
    if left > expected:
        raise InputError(
            f"'{path}' holds more than one array: it is damaged, or was not made by numpy.save. "
            "Save one array per file."
        )
    return values


def _read_header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the dtype that the file announces."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):  # 2.0 and 3.0 differ in the header's encoding only
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def save_npy(path: Path, values: NDArray[np.float32]) -> Path:
    """Write a map as a C-contiguous array.

    Raises:
        SaveError: The file could not be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.lib.format.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)

    return write_atomically(path, write)
