"""Reading of NIfTI files: the scaled values and the affine of the header."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, warn
from medcam.files.formats.nifti import unit_in_mm
from medcam.files.geometry import as_affine, spacing_of
from medcam.files.image import Image, to_channels

_GZIP = b"\x1f\x8b"
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
    image, raw_header = _load_nifti(path)
    header = image.header
    try:
        values = np.asanyarray(image.dataobj)
    except _UNREADABLE as error:
        raise _unreadable_error(path, error) from error
    finally:
        image.uncache()
    volumes, axis = _split_volumes(values, path)
    array = to_channels(volumes, volume=volume, as_channels=as_channels, path=path, axis=axis)
    axes = array.ndim - 1
    spacing: tuple[float, ...] | None
    if header["sform_code"] > 0 or header["qform_code"] > 0:
        sizes = raw_header["pixdim"][1 : axes + 1]
        if header["sform_code"] <= 0 and bool((sizes <= 0).any()):
            raise InputError(
                f"'{path}' has voxels of size {sizes.tolist()} mm: its geometry is damaged. Set "
                "pixdim in its header."
            )
        scale = unit_in_mm(header)
        affine = np.diag([scale, scale, scale, 1]) @ as_affine(
            header.get_best_affine(), f"The affine of '{path}'"
        )
        spacing = spacing_of(affine)[:axes]
    else:
        warn(
            f"'{path.name}' does not say where its voxels lie (sform_code and qform_code are 0): "
            "left and right are not known. A map of it is saved without a position, too."
        )
        affine = None
        extents = [float(size) * unit_in_mm(header) for size in raw_header["pixdim"][1 : axes + 1]]
        spacing = tuple(extents) if min(extents) > 0 else None
    return Image(array, affine, spacing, (path,), header.copy())


_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zlib.error, MemoryError, OverflowError)


def _load_nifti(path: Path) -> tuple[Any, Any]:
    """Return the nibabel image and the raw header, before nibabel's automatic corrections.

    The whole file is read, so that the checksum at the end of a compressed file is compared.
    """
    import nibabel as nib
    from nibabel.wrapstruct import WrapStructError

    unreadable = (
        *_UNREADABLE,
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
        WrapStructError,
    )
    try:
        content = path.read_bytes()
        if content[:2] == _GZIP:
            content = gzip.decompress(content)
        # A file begins with the size of its header, in its own byte order.
        image_classes = {
            size.to_bytes(4, order): image_class
            for size, image_class in ((348, nib.Nifti1Image), (540, nib.Nifti2Image))
            for order in ("little", "big")
        }
        image_class = image_classes.get(content[:4])
        if image_class is None:
            raise InputError(
                f"'{path}' is not a NIfTI file: it does not begin with the size of a NIfTI header."
            )
        header_class = image_class.header_class
        raw_header = header_class(content[: header_class.sizeof_hdr], check=False)
        return image_class.from_stream(io.BytesIO(content)), raw_header
    except unreadable as error:
        if isinstance(error, InputError):  # also a ValueError; its message is specific already
            raise
        raise _unreadable_error(path, error) from error


def _unreadable_error(path: Path, error: BaseException) -> InputError:
    """Return the error for a file that nibabel cannot read."""
    reason = str(error) or type(error).__name__
    return InputError(f"'{path}' cannot be read as NIfTI: {reason}. Is it cut off or damaged?")


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
