"""Reading of NIfTI files: the scaled values and the affine of the header."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, foreign_errors, warn
from medcam.files.formats.nifti import unit_in_mm
from medcam.files.formats.streams import ByteStream, InflatingStream, PlainStream
from medcam.files.geometry import as_affine, spacing_of
from medcam.files.image import Image, to_channels
from medcam.files.memory import require_memory

_GZIP = b"\x1f\x8b"
_MAX_OFFSET = 2**26  # bytes before the voxels: the header and its extensions
_DAMAGED = "Is it cut off or damaged?"
_AXIS_NAMES = {4: "4th axis", 5: "5th axis (a vector's components)"}


def read_nifti(path: Path, *, volume: int | None, as_channels: bool | None) -> Image:
    """Read a NIfTI-1 or NIfTI-2 file; see `medcam.files.read_image`.

    Values are scaled by ``scl_slope`` and ``scl_inter``. The affine is the sform, or the qform if
    there is no sform, converted to mm; None if the codes of both are 0. The colours of RGB files
    are channels. The image's ``source`` is the header.

    Raises:
        InputError: The file is not NIfTI or is damaged, has too many axes, or has an invalid
            affine.
    """
    with foreign_errors(f"'{path}' cannot be read as NIfTI", _DAMAGED), _nibabel_is_quiet():
        image, raw_header = _load_nifti(path)
        header = image.header
        values = np.asanyarray(image.dataobj)
        image.uncache()
    volumes, axis = _split_volumes(values, path)
    array = to_channels(volumes, volume=volume, as_channels=as_channels, path=path, axis=axis)
    axes = array.ndim - 1
    spacing: tuple[float, ...] | None
    if header["sform_code"] > 0 or header["qform_code"] > 0:
        sizes = raw_header["pixdim"][1 : axes + 1]
        if header["sform_code"] <= 0 and not _are_extents(sizes.tolist()):
            raise InputError(
                f"'{path}' has voxels of size {sizes.tolist()} mm: its geometry is damaged. Set "
                "pixdim in its header."
            )
        scale = unit_in_mm(header)
        affine = np.diag([scale, scale, scale, 1]) @ as_affine(
            header.get_best_affine(), f"The affine of '{path}'"
        )
        spacing = spacing_of(affine)[:axes]
        if not _are_extents(spacing):
            raise InputError(
                f"'{path}' has voxels of size {list(spacing)} mm: its geometry is damaged. Correct "
                "the sform in its header."
            )
    else:
        warn(
            f"'{path.name}' does not say where its voxels lie (sform_code and qform_code are 0): "
            "left and right are not known. A map of it is saved without a position, too."
        )
        affine = None
        extents = [float(size) * unit_in_mm(header) for size in raw_header["pixdim"][1 : axes + 1]]
        spacing = tuple(extents) if _are_extents(extents) else None
    return Image(array, affine, spacing, (path,), header.copy())


def _nibabel_is_quiet() -> AbstractContextManager[None]:
    """Return a context without nibabel's notes on fields that it mends; they go to stderr."""
    from nibabel.imageglobals import LoggingOutputSuppressor

    quiet: AbstractContextManager[None] = LoggingOutputSuppressor()
    return quiet


def _are_extents(sizes: Sequence[float]) -> bool:
    """Return whether the extents of a voxel are positive and finite."""
    return all(0 < size < math.inf for size in sizes)


def _load_nifti(path: Path) -> tuple[Any, Any]:
    """Return the nibabel image and the raw header, before nibabel's automatic corrections.

    The whole file is read, so that the checksum at the end of a compressed file is compared, but
    not more than its header announces.
    """
    import nibabel as nib

    content = path.read_bytes()
    stream: ByteStream = InflatingStream(content) if content[:2] == _GZIP else PlainStream(content)
    start = bytes(stream.take(4))
    # A file begins with the size of its header, in its own byte order.
    image_classes = {
        size.to_bytes(4, order): image_class
        for size, image_class in ((348, nib.Nifti1Image), (540, nib.Nifti2Image))
        for order in ("little", "big")
    }
    image_class = image_classes.get(start)
    if image_class is None:
        raise InputError(
            f"'{path}' is not a NIfTI file: it does not begin with the size of a NIfTI header."
        )
    header_class = image_class.header_class
    size = header_class.sizeof_hdr
    start += bytes(stream.take(size - 4))
    raw_header = header_class(start, check=False)
    rest = _announced_bytes(raw_header) - size
    is_scaled = float(raw_header["scl_slope"]) not in (0.0, 1.0) or bool(raw_header["scl_inter"])
    values = 8 * math.prod(map(int, raw_header.get_data_shape())) if is_scaled else rest
    require_memory(2 * rest + values, f"'{path}'")
    whole = b"".join((start, stream.take(rest)))
    stream.finish()
    return image_class.from_stream(io.BytesIO(whole)), raw_header


def _announced_bytes(header: Any) -> int:
    """Return the length of the file that a header announces: up to the last voxel."""
    offset = float(header["vox_offset"])
    shortest = header.sizeof_hdr + 4  # the four bytes say whether extensions follow
    if not (offset == 0 or shortest <= offset <= _MAX_OFFSET):
        raise ValueError(f"its voxels begin at byte {offset:g}")
    voxels = math.prod(map(int, header.get_data_shape()))
    if voxels < 0:
        raise ValueError(f"its shape is {header.get_data_shape()}")
    return (int(offset) or shortest) + voxels * int(header.get_data_dtype().itemsize)


def _split_volumes(values: NDArray[Any], path: Path) -> tuple[NDArray[Any], str]:
    """Return ``[volumes, colours, *space]``, and what the volumes are, for error messages."""
    if values.ndim < 2:
        raise InputError(f"'{path}' has the shape {list(values.shape)}: an image has 2 or 3 axes.")
    space, other_extents = values.shape[:3], values.shape[3:]
    volume_axes = [axis for axis, extent in enumerate(other_extents, start=4) if extent != 1]
    if len(volume_axes) > 1:
        raise InputError(
            f"'{path}' has the shape {list(values.shape)}: more than one axis beyond space. Split "
            "it into files of one volume (nibabel.funcs.four_to_three)."
        )
    values = np.moveaxis(values.reshape(*space, -1), -1, 0)
    number = volume_axes[0] if volume_axes else 4
    axis_name = f"volumes ({_AXIS_NAMES.get(number, f'{number}th axis')})"
    if values.dtype.names is not None:  # RGB: a structured dtype with one field per colour
        return np.stack([values[colour] for colour in values.dtype.names], 1), axis_name
    return values[:, None], axis_name
