"""NIfTI files as images: every voxel, and the place that the file gives it."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, warn
from medcam.files.formats.nifti import millimetres
from medcam.files.geometry import as_affine, spacing_of
from medcam.files.image import Image, one_volume

_GZIP = b"\x1f\x8b"
_AXES = {4: "4th axis", 5: "5th axis (a vector's components)"}


def read_nifti(path: Path, *, volume: int | None, as_channels: bool | None) -> Image:
    """Gives a NIfTI-1 or NIfTI-2 file; see :func:`medcam.files.read_image`.

    Values are scaled by ``scl_slope`` and ``scl_inter``. The affine is the sform's, or the
    qform's where there is no sform, in mm whatever the header's unit; None where the codes of
    both are 0. RGB files have their colours as channels. The source is the header.

    Raises:
        InputError: Not NIfTI, damaged, complex, of more axes than can be told apart, or an affine
            that cannot place voxels.
    """
    image, raw = _open(path)
    header = image.header
    try:
        values = np.asanyarray(image.dataobj)
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    finally:
        image.uncache()
    volumes, axis = _volumes(values, path)
    array = one_volume(volumes, volume=volume, as_channels=as_channels, path=path, axis=axis)
    axes = array.ndim - 1
    spacing: tuple[float, ...] | None
    if header["sform_code"] > 0 or header["qform_code"] > 0:
        if header["sform_code"] <= 0 and bool((raw["pixdim"][1 : axes + 1] <= 0).any()):
            raise InputError(
                f"'{path}' has voxels of size {raw['pixdim'][1 : axes + 1].tolist()} mm: its "
                "geometry is damaged. Set pixdim in its header."
            )
        scale = millimetres(header)
        affine = np.diag([scale, scale, scale, 1]) @ as_affine(
            header.get_best_affine(), f"The affine of '{path}'"
        )
        spacing = spacing_of(affine)[:axes]
    else:
        warn(
            f"'{path.name}' does not say where its voxels lie (sform_code and qform_code are 0): "
            "left and right are not known. A map of it says no more."
        )
        affine = None
        sizes = [float(size) * millimetres(header) for size in raw["pixdim"][1 : axes + 1]]
        spacing = tuple(sizes) if min(sizes) > 0 else None
    return Image(array, affine, spacing, (path,), header.copy())


_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zlib.error, MemoryError, OverflowError)


def _open(path: Path) -> tuple[Any, Any]:
    """The nibabel image, and its header before nibabel mended it.

    The whole file is read, so that the checksum at the end of a compressed one is looked at.
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
        kinds = {
            size.to_bytes(4, order): kind
            for size, kind in ((348, nib.Nifti1Image), (540, nib.Nifti2Image))
            for order in ("little", "big")
        }
        kind = kinds.get(content[:4])
        if kind is None:
            raise InputError(f"'{path}' is not a NIfTI file: it begins with other bytes.")
        raw = kind.header_class(content[: kind.header_class.sizeof_hdr], check=False)
        return kind.from_stream(io.BytesIO(content)), raw
    except unreadable as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> InputError:
    reason = str(error) or type(error).__name__
    return InputError(f"'{path}' cannot be read as NIfTI: {reason}. Is it cut off or damaged?")


def _volumes(values: NDArray[Any], path: Path) -> tuple[NDArray[Any], str]:
    """Gives ``[volumes, colours, *space]``, and what its volumes are."""
    if values.ndim < 2:
        raise InputError(f"'{path}' has the shape {list(values.shape)}: an image has 2 or 3 axes.")
    space, further = values.shape[:3], values.shape[3:]
    long = [axis for axis, extent in enumerate(further, start=4) if extent != 1]
    if len(long) > 1:
        raise InputError(
            f"'{path}' has the shape {list(values.shape)}: more than one axis beyond space. Split "
            "it into files of one volume (nibabel.funcs.four_to_three)."
        )
    values = np.moveaxis(values.reshape(*space, -1), -1, 0)
    name = _AXES.get(long[0], f"{long[0]}th axis") if long else ""
    if values.dtype.names is not None:
        return np.stack([values[colour] for colour in values.dtype.names], 1), f"volumes ({name})"
    return values[:, None], f"volumes ({name})"
