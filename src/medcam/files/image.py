"""An image that was read from a file, and the two checks that every reader's array passes."""

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
    """An image, channels first, with its geometry.

    Attributes:
        array: ``[channels, *space]``, real and finite, in the file's own dtype. The spatial axes
            are in the file's order: x, y, z as in nibabel for volumes (also for those read by
            SimpleITK), rows and columns for pictures, ``[pages, rows, columns]`` for stacks of
            pictures.
        affine: 4x4, from voxel indices to RAS+ millimetres. None where the file does not say where
            its voxels lie: pictures, arrays, NIfTI files with ``sform_code`` and ``qform_code`` 0,
            NRRD files without an anatomical space.
        spacing: The voxel's extents in mm, one per spatial axis; None if the file has none.
        paths: The file that the image was read from; for stacked images, one per channel.
        source: The geometry as the file format stores it, for maps on the same grid. Its type
            depends on the format: a NIfTI header or an `ItkGrid`.
    """

    array: NDArray[Any]
    affine: Affine | None = None
    spacing: tuple[float, ...] | None = None
    paths: tuple[Path, ...] = ()
    source: Any = field(default=None, repr=False)

    @property
    def space(self) -> tuple[int, ...]:
        """The spatial shape, without channels."""
        return self.array.shape[1:]

    @property
    def path(self) -> Path | None:
        """The first of `paths`; None for an image that was made in memory."""
        return self.paths[0] if self.paths else None

    def __repr__(self) -> str:
        shape = ", ".join(str(extent) for extent in self.array.shape)
        name = "" if self.path is None else f" of '{self.path.name}'"
        return f"Image([{shape}] {self.array.dtype}{name})"


def to_channels(
    values: NDArray[Any], *, volume: int | None, as_channels: bool | None, path: Path, axis: str
) -> NDArray[Any]:
    """Return ``[channels, *space]``: one volume of a file, or all its volumes as channels.

    Args:
        values: ``[volumes, colours, *space]``.
        volume: The index of the volume; None if there is only one, or if they are channels.
        as_channels: Whether the volumes are the channels.
        path: The file, for error messages.
        axis: What the file's volumes are, for error messages, e.g. ``"volumes (4th axis)"``.

    Raises:
        InputError: There are several volumes and neither argument is given, there is no such
            volume, or both colours and volumes would have to be channels.

    Example:
        >>> path = Path("a.nii")
        >>> values = np.zeros((5, 1, 2, 3, 4))
        >>> to_channels(values, volume=None, as_channels=True, path=path, axis="volumes").shape
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


def sanitize_values(values: NDArray[Any], path: Path, fill: float | None) -> NDArray[Any]:
    """Return a copy that PyTorch can hold: real, finite in float32, in native byte order.

    Args:
        values: The values as read.
        path: The file, for messages.
        fill: The replacement of NaN and infinite values, with a warning; None to refuse them.

    Raises:
        InputError: The values are empty, not real numbers, or not finite.

    Example:
        >>> sanitize_values(np.array([1, 2], ">i2"), Path("a.npy"), None).dtype
        dtype('int16')
    """
    if values.dtype.kind not in "biuf":
        raise InputError(
            f"'{path}' holds values of type {values.dtype}: real numbers are needed. Save the "
            "magnitude or the phase of complex values instead."
        )
    if not values.size:
        raise InputError(f"'{path}' is empty: its shape is {list(values.shape)}.")
    is_long_double = values.dtype.kind == "f" and values.dtype.itemsize > 8  # not in PyTorch
    dtype = np.dtype(np.float64) if is_long_double else values.dtype.newbyteorder("=")
    values = np.array(values, dtype, order="C")  # a copy: neither read-only nor a view of the file
    if values.dtype.kind != "f":
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        bad = ~np.isfinite(values.astype(np.float32, copy=False))
    bad_count = int(bad.sum())
    if not bad_count:
        return values
    if fill is None:
        raise InputError(
            f"'{path}' has {bad_count} of {values.size} values that are NaN, infinite or beyond "
            "float32: clean the file, or give their replacement (fill=0.0)."
        )
    if not np.isfinite(np.float32(fill)):
        raise InputError(f"fill={fill!r} is not a finite number.")
    warn(
        f"{bad_count} of {values.size} values of '{path.name}' were NaN, infinite or beyond "
        f"float32, and are now {fill}."
    )
    values[bad] = fill
    return values
