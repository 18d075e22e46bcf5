"""NIfTI volumes that lie exactly where their image lies."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcam.errors import InputError, InputTypeError, warn
from medcam.files.arrays import robust_max, to_map
from medcam.files.atomic import write_atomically
from medcam.files.geometry import Affine, as_affine, is_sheared, spacing_of

# The fields of a NIfTI header that say where the voxels lie, copied bit by bit.
_PLACE = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units")
_OFFSETS = ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")
_UNITS = {1: 1000.0, 2: 1.0, 3: 0.001}  # metre, millimetre, micron
_ALIGNED = 2  # the NIfTI code for "coordinates of some other image": all that a bare affine tells


def save_nifti(path: str | os.PathLike[str], volume: object, reference: object = None) -> Path:
    """Writes a map as a float32 NIfTI-1 file on the grid of its image.

    The values are written as they are: not scaled, not transposed. ``cal_min`` and ``cal_max``,
    from which viewers take their first window, are 0 and the robust maximum; symmetric about 0 for
    a map with negative values.

    Args:
        path: The file, ending in ``.nii`` or ``.nii.gz``.
        volume: ``[X, Y, Z]``, finite real numbers; ``[X, Y]`` where the reference is a nibabel
            image of two axes. The order of the axes is the image's own as nibabel and MONAI read
            it.
        reference: Where the voxels lie. A nibabel image or the path of one: its sform and qform
            with their codes, spacing and units, bit by bit; other things in its header (names,
            dates) are not copied. Or a 4x4 affine from voxel indices to RAS+ millimetres, or
            anything with an ``affine`` (MONAI's MetaTensor). None: the identity, with one warning
            per process.

    Raises:
        InputError: Not three axes, NaN or infinity, another shape than the reference, an affine
            that is not 4x4, finite and invertible, an unreadable reference, another ending.
        InputTypeError: A reference of another kind.
        SaveError: The file could not be written.

    Example:
        >>> import tempfile, nibabel
        >>> affine = np.diag([1, 1, 5, 1])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_nifti(Path(folder, "a.nii.gz"), np.ones((2, 3, 4)), affine)
        ...     bool((nibabel.load(path).affine == affine).all())
        True
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError(
            f"'{path}' does not end in '.nii.gz' or '.nii': volumes are saved as NIfTI."
        )
    values = to_map(volume, "The volume")
    flat = values.ndim == 2 == getattr(reference, "ndim", 0) and hasattr(reference, "header")
    if values.ndim != 3 and not flat:
        raise InputError(
            f"A volume is [X, Y, Z], not {list(values.shape)}: "
            "save each sample and channel by itself."
        )
    header = _header(values.shape, reference)
    header.set_data_dtype(np.float32)
    top = robust_max(values)
    header["cal_min"], header["cal_max"] = (-top if bool((values < 0).any()) else 0.0), top
    header["descrip"] = b"medcam"
    image = _nibabel().Nifti1Image(values, None, header)
    return write_atomically(path, image.to_filename)


def voxel_sizes(reference: object) -> tuple[float, float, float]:
    """The voxel's extents in mm along the axes of a reference, see :func:`save_nifti`.

    Example:
        >>> voxel_sizes(np.diag([0.5, 0.5, 3.0, 1.0]))
        (0.5, 0.5, 3.0)
    """
    if isinstance(reference, str | os.PathLike):
        reference = _load(reference)
    x, y, z = spacing_of(as_affine(getattr(reference, "affine", reference)))
    scale = millimetres(getattr(reference, "header", None))
    return x * scale, y * scale, z * scale


def millimetres(header: object) -> float:
    """How many mm the unit of a NIfTI header's affine is; 1 where it names none.

    Example:
        >>> import nibabel
        >>> header = nibabel.Nifti1Header()
        >>> header.set_xyzt_units("micron")
        >>> millimetres(header)
        0.001
    """
    if not isinstance(header, _nibabel().Nifti1Header):
        return 1.0
    return _UNITS.get(int(header["xyzt_units"]) & 7, 1.0)  # the higher bits are the unit of time


def regrid(reference: Any, shape: Sequence[int], space: Sequence[int]) -> Any:
    """The reference for a volume of another size that covers the same ground.

    Args:
        reference: See :func:`save_nifti`; a bare affine is that of the grid ``space``.
        shape: The volume's extents.
        space: The extents of the image that the volume was made of.

    Returns:
        The reference itself where the volume has its grid; else the affine of the new grid, whose
        outer faces are the old one's (``align_corners=False``).

    Example:
        >>> regrid(np.diag([1.0, 1, 1, 1]), (2, 2, 2), (4, 4, 4))[:, [0, 3]].tolist()
        [[2.0, 0.5], [0.0, 0.5], [0.0, 0.5], [0.0, 1.0]]
    """
    if reference is None:
        return None
    given = _load(reference) if isinstance(reference, str | os.PathLike) else reference
    affine = getattr(given, "affine", None)
    if affine is None:
        own = tuple(space)
    else:
        own = tuple(given.shape[-3:] if isinstance(given, torch.Tensor) else given.shape[:3])
    if tuple(shape) == own or own != tuple(space):  # a grid of a third kind is refused later
        return reference
    step = np.asarray(own) / np.asarray(shape)
    to_old = np.diag([*step, 1.0])
    to_old[:3, 3] = step / 2 - 0.5
    return _in_mm(given if affine is None else affine, given) @ to_old


def _in_mm(affine: object, image: object) -> Affine:
    """An image's affine, whatever the unit of its header."""
    scale = millimetres(getattr(image, "header", None))
    return np.diag([scale, scale, scale, 1.0]) @ as_affine(affine)


def _nibabel() -> Any:  # its own annotations are too partial for strict checking
    import nibabel

    return nibabel


def _header(shape: tuple[int, ...], reference: object) -> Any:
    """Gives a fresh Nifti1Header of that shape with the reference's geometry."""
    nib = _nibabel()
    if isinstance(reference, str | os.PathLike):
        reference = _load(reference)
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    if isinstance(reference, nib.spatialimages.SpatialImage):
        _check_shape(shape, (*reference.shape, 1, 1)[: len(shape)])
        source, affine = reference.header, reference.affine
        # An image made without an affine has the one that its header says.
        affine = as_affine(source.get_best_affine() if affine is None else affine)
        same = isinstance(source, nib.Nifti1Header) and np.allclose(
            affine, source.get_best_affine()
        )
        if same:  # else another format, or its affine was changed after it was read
            for field in _PLACE + _OFFSETS:
                header[field] = source[field]
            header["pixdim"][:4] = source["pixdim"][:4]
            return header
        affine = _in_mm(affine, reference)
    else:
        affine = _affine_of(shape, reference)
    # a qform cannot hold a shear
    header.set_qform(affine, 0 if is_sheared(affine) else _ALIGNED)
    header.set_sform(affine, _ALIGNED)
    header["pixdim"][1:4] = spacing_of(affine)
    header.set_xyzt_units("mm")
    return header


def _affine_of(shape: tuple[int, ...], reference: object) -> Affine:
    """Gives the affine of a reference that is no nibabel image."""
    if reference is None:
        _warn_identity()
        return np.eye(4)
    affine = getattr(reference, "affine", None)
    if affine is None:
        if not isinstance(reference, torch.Tensor | np.ndarray | Sequence):
            raise InputTypeError(
                f"A reference is a NIfTI path, a nibabel image, a 4x4 affine or something with an "
                f"'affine' (MetaTensor), not {type(reference).__name__}."
            )
        return as_affine(reference)
    if isinstance(reference, torch.Tensor):  # MONAI: channels first, so space comes last
        _check_shape(shape, (1, 1, *reference.shape)[-3:])
    return as_affine(affine)


def _load(path: str | os.PathLike[str]) -> Any:
    nib = _nibabel()
    try:
        return nib.load(path)
    except (OSError, nib.filebasedimages.ImageFileError) as error:
        raise InputError(
            f"The reference '{path}' cannot be read: {error}. Pass a NIfTI file or its 4x4 affine."
        ) from error


def _check_shape(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape == wanted:
        return
    advice = (
        "Pass the image on whose voxels the map lies. If the model was given the reference padded "
        "or cropped, cut the map back the same way. Only if it was resampled, resample the map: "
        "inject(data_shape=reference's shape), explain(shape=...)."
    )
    if shape == wanted[::-1]:
        advice = (
            "The axes are reversed: arrays of SimpleITK are z, y, x, NIfTI is x, y, z. Transpose "
            "the volume with .transpose(2, 1, 0) (torch: .permute(2, 1, 0))."
        )
    raise InputError(
        f"The volume is {list(shape)}, its reference {list(wanted)}: they must be equal. {advice}"
    )


@functools.cache
def _warn_identity() -> None:
    """Warns once per process; a filter that turns it into an error makes it raise every time."""
    warn(
        "The map is saved without its image's geometry (identity affine: 1 mm voxels, no origin), "
        "so viewers will not lay it over the image. Pass reference=: the image, its path or its "
        "affine. This is said once."
    )
