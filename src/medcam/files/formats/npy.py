"""NumPy's own files, of numbers only: nothing in them is ever run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError
from medcam.files.atomic import write_atomically
from medcam.files.image import Image, one_volume


def read_npy(path: Path, *, volume: int | None, as_channels: bool | None) -> Image:
    """Gives an array: ``[H, W]``, or with more axes as the caller says.

    See :func:`medcam.files.read_image`. A first axis that is the channels is said so by
    ``as_channels=True``; three axes that are all space, by ``as_channels=False``.

    Raises:
        InputError: Not such a file, cut off, pickled, of another number of axes, or three axes
            and nothing said about the first.
    """
    try:
        with path.open("rb") as stream:
            values: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
            rest = stream.read(1)
    except (OSError, ValueError, EOFError, MemoryError, OverflowError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"'{path}' cannot be read as a .npy array: {reason}") from error
    if rest:
        raise InputError(
            f"'{path}' holds more than one array: it is damaged, or not of numpy.save."
        )
    shape = list(values.shape)
    if values.ndim not in (2, 3, 4):
        raise InputError(
            f"'{path}' has the shape {shape}: an array is [H, W], [channels, H, W], [X, Y, Z] or "
            "[channels, X, Y, Z]."
        )
    if values.ndim == 2 or (values.ndim == 3 and as_channels is False and volume is None):
        values = values[None]
    elif volume is None and not as_channels:
        or_space = ", or that all three are space (as_channels=False)" if values.ndim == 3 else ""
        raise InputError(
            f"'{path}' has the shape {shape}: say that its first axis is the channels "
            f"(as_channels=True), which of them is meant (volume=0, ...){or_space}."
        )
    array = one_volume(
        values[:, None], volume=volume, as_channels=as_channels, path=path, axis="entries"
    )
    return Image(array, paths=(path,))


def save_npy(path: Path, values: NDArray[np.float32]) -> Path:
    """Writes a map as it is.

    Raises:
        SaveError: The file could not be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.lib.format.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)

    return write_atomically(path, write)
