"""What was read from an image file: the numbers, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, warn
from medcam.files.geometry import Affine


@dataclass(frozen=True, eq=False)
class Image:
    """An image, its channels first, and where it lies.

    Attributes:
        array: ``[channels, *space]``, real and finite, in the file's own type. The axes of space
            are those of the file: x, y, z as nibabel has them for volumes (ITK's too), rows and
            columns for pictures, ``[pages, rows, columns]`` for stacks of pictures.
        affine: 4x4, from voxel indices to RAS+ millimetres. None where the file does not say where
            its voxels lie: pictures, arrays, NIfTI files with both codes 0, NRRD files
            without an anatomical space.
        spacing: The voxel's extents in mm, one per axis of space; None where the file has none.
        paths: The file that it was read from; of stacked images, one per channel.
        source: What is needed to write a map in the same geometry; its kind is that of the format.
    """

    array: NDArray[Any]
    affine: Affine | None = None
    spacing: tuple[float, ...] | None = None
    paths: tuple[Path, ...] = ()
    source: Any = field(default=None, repr=False)

    @property
    def space(self) -> tuple[int, ...]:
        """The extents of the axes of space."""
        return self.array.shape[1:]

    @property
    def path(self) -> Path | None:
        """The file that the image was read from; of stacked images, the first. None: in memory."""
        return self.paths[0] if self.paths else None

    def __repr__(self) -> str:
        shape = ", ".join(str(extent) for extent in self.array.shape)
        name = "" if self.path is None else f" of '{self.path.name}'"
        return f"Image([{shape}] {self.array.dtype}{name})"


def one_volume(
    values: NDArray[Any], *, volume: int | None, as_channels: bool | None, path: Path, axis: str
) -> NDArray[Any]:
    """Gives ``[channels, *space]``: one of the file's volumes, or all of them as channels.

    Args:
        values: ``[volumes, colours, *space]``.
        volume: Which volume is taken; None: there is one, or they are channels.
        as_channels: Whether the volumes are the channels.
        path: The file, for the message.
        axis: What its volumes are, for the message: ``"volumes along its 4th axis"``.

    Raises:
        InputError: Several volumes and nothing said; a volume that is not there; colours and
            channels at once.

    Example:
        >>> one = dict(path=Path("a.nii"), axis="volumes")
        >>> one_volume(np.zeros((5, 1, 2, 3, 4)), volume=None, as_channels=True, **one).shape
        (5, 2, 3, 4)
    """
    count, colours = values.shape[:2]
    if volume is not None:
        if as_channels:
            raise InputError("volume= takes one volume and as_channels=True all: give one of them.")
        if isinstance(volume, bool) or not hasattr(volume, "__index__"):
            raise InputError(f"volume={volume!r} is not the index of a volume: give an int from 0.")
        if not 0 <= volume < count:
            raise InputError(f"'{path}' has no volume {volume}: there are {count}, counted from 0.")
        return np.asarray(values[volume])
    if count == 1:
        return np.asarray(values[0])
    if not as_channels:
        raise InputError(
            f"'{path}' holds {count} {axis}: say which one is meant (volume=0 to {count - 1}), or "
            "that they are the channels (as_channels=True)."
        )
    if colours > 1:
        raise InputError(
            f"'{path}' holds {count} {axis} with {colours} colours each: they cannot all be "
            f"channels. Take one of them (volume=0 to {count - 1})."
        )
    return np.asarray(values[:, 0])


def real_numbers(values: NDArray[Any], path: Path, fill: float | None) -> NDArray[Any]:
    """Gives numbers that torch can take: real, finite in float32, of the machine's byte order.

    Args:
        values: As read.
        path: The file, for the message.
        fill: What becomes of NaN and infinite values, with a warning; None: they are refused.

    Raises:
        InputError: Not real numbers, none at all, or not finite.

    Example:
        >>> real_numbers(np.array([1, 2], ">i2"), Path("a.npy"), None).dtype
        dtype('int16')
    """
    if values.dtype.kind not in "biuf":
        raise InputError(
            f"'{path}' holds values of type {values.dtype}: real numbers are needed. Of complex "
            "ones, save the magnitude (or the phase) as an image of its own."
        )
    if not values.size:
        raise InputError(f"'{path}' is empty: its shape is {list(values.shape)}.")
    wide = values.dtype.kind == "f" and values.dtype.itemsize > 8  # no such type in torch
    own = np.dtype(np.float64) if wide else values.dtype.newbyteorder("=")
    values = np.array(values, own, order="C")  # a copy: neither a view of the file nor read-only
    if values.dtype.kind != "f":
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        bad = ~np.isfinite(values.astype(np.float32, copy=False))
    count = int(bad.sum())
    if not count:
        return values
    if fill is None:
        raise InputError(
            f"'{path}' has {count} of {values.size} values that are NaN, infinite or beyond "
            "float32: clean it, or say what they become (fill=0.0)."
        )
    if not np.isfinite(np.float32(fill)):
        raise InputError(f"fill={fill!r} is not a finite number.")
    warn(
        f"{count} of {values.size} values of '{path.name}' were NaN, infinite or beyond float32, "
        f"and are now {fill}."
    )
    values[bad] = fill
    return values
