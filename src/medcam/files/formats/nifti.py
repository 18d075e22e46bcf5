"""Writing of NIfTI volumes with the geometry of their image, and reading of that geometry."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcam.errors import InputError, InputTypeError, foreign_errors, warn
from medcam.files.arrays import robust_max, to_map
from medcam.files.atomic import write_atomically
from medcam.files.geometry import Affine, affine_of, as_affine, is_sheared, spacing_of
from medcam.maps import LayerGrid

# The fields of a NIfTI header that hold the geometry; they are copied bit by bit.
_GEOMETRY_FIELDS = (
    "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
_UNITS = {1: 1000.0, 2: 1.0, 3: 0.001}  # metre, millimetre and micron in mm
_ALIGNED = 2  # NIfTI code "aligned to another image"; a bare affine implies nothing more exact


def save_nifti(path: str | os.PathLike[str], volume: object, reference: object = None) -> Path:
    """Write a map as a float32 NIfTI-1 file on the grid of its image.

    The values are neither scaled nor transposed. ``cal_min`` and ``cal_max``, the display window
    that viewers open with, are 0 and the 99.9th percentile of the non-zero magnitudes; symmetric
    about 0 for a map with negative values.

    Args:
        path: The file, ending in ``.nii`` or ``.nii.gz``.
        volume: ``[X, Y, Z]``, finite real numbers, with the axes in the order in which nibabel and
            MONAI read the image; ``[X, Y]`` if the reference is a nibabel image of two axes.
        reference: The geometry. From a nibabel image or its path, the sform and qform with their
            codes, the spacing and the units are copied bit by bit; other header fields (names,
            dates) are not. Also a 4x4 affine from voxel indices to RAS+ millimetres, or any object
            with an ``affine``, such as MONAI's MetaTensor, in RAS or LPS. None is the identity,
            with one warning per process.

    Raises:
        InputError: The volume is not finite, or not of three axes, or of another shape than the
            reference; the affine is not 4x4, finite and invertible; the reference cannot be read;
            or the ending is another.
        InputTypeError: The reference is of another type.
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
    is_2d = values.ndim == 2 == getattr(reference, "ndim", 0) and hasattr(reference, "header")
    if values.ndim != 3 and not is_2d:
        raise InputError(
            f"A volume is [X, Y, Z], not {list(values.shape)}: "
            "save each sample and channel by itself."
        )
    header = _make_header(values.shape, reference)
    header.set_data_dtype(np.float32)
    top = robust_max(values)
    header["cal_min"], header["cal_max"] = (-top if bool((values < 0).any()) else 0.0), top
    header["descrip"] = b"medcam"
    image = _nibabel().Nifti1Image(values, None, header)
    return write_atomically(path, image.to_filename)


def voxel_sizes(reference: object) -> tuple[float, float, float]:
    """Return the voxel's extents in mm along the axes of a reference; see `save_nifti`.

    Example:
        >>> voxel_sizes(np.diag([0.5, 0.5, 3.0, 1.0]))
        (0.5, 0.5, 3.0)
    """
    if isinstance(reference, str | os.PathLike):
        reference = _load(reference)
    affine = affine_of(reference)
    x, y, z = spacing_of(as_affine(reference if affine is None else affine))
    scale = unit_in_mm(getattr(reference, "header", None))
    return x * scale, y * scale, z * scale


def unit_in_mm(header: object) -> float:
    """Return the length of a NIfTI header's unit in mm; 1 if it has no unit.

    Example:
        >>> import nibabel
        >>> header = nibabel.Nifti1Header()
        >>> header.set_xyzt_units("micron")
        >>> unit_in_mm(header)
        0.001
    """
    if not isinstance(header, _nibabel().Nifti1Header):
        return 1.0
    return _UNITS.get(int(header["xyzt_units"]) & 7, 1.0)  # the higher bits are the unit of time


def reference_for_shape(reference: Any, shape: Sequence[int], space: Sequence[int]) -> Any:
    """Return the reference of a volume that was resampled within the image's outer borders.

    Args:
        reference: See `save_nifti`; a bare affine is that of the grid ``space``.
        shape: The volume's shape.
        space: The spatial shape of the image that the volume was made from.

    Returns:
        The reference itself if the volume has its shape. Otherwise the affine of the new grid,
        whose outer borders are those of the image (``align_corners=False``).

    Example:
        >>> reference_for_shape(np.eye(4), (2, 2, 2), (4, 4, 4))[:, [0, 3]].tolist()
        [[2.0, 0.5], [0.0, 0.5], [0.0, 0.5], [0.0, 1.0]]
    """
    if reference is None:
        return None
    image = _load(reference) if isinstance(reference, str | os.PathLike) else reference
    affine = affine_of(image)
    image_shape = grid_shape(image) or tuple(space)
    # A reference of a third shape is returned as it is: `save_nifti` refuses it with its reason.
    if tuple(shape) == image_shape or image_shape != tuple(space):
        return reference
    step = np.asarray(image_shape) / np.asarray(shape)
    to_image_index = np.diag([*step, 1.0])
    to_image_index[:3, 3] = step / 2 - 0.5
    return _affine_in_mm(image if affine is None else affine, image) @ to_image_index


def reference_for_layer(reference: Any, grid: LayerGrid, space: Sequence[int]) -> Any:
    """Return the reference of a map of a layer's own shape: the affine of the layer's cells.

    Args:
        reference: That of the image, see `save_nifti`.
        grid: Where the layer's cells lie on the image.
        space: The spatial shape of the image.

    Returns:
        The affine; the reference itself if it is that of an image of another shape.
    """
    if reference is None:
        return None
    affine = grid_affine(reference, space, space)
    return reference if affine is None else grid.affine(affine)


def grid_shape(reference: Any) -> tuple[int, ...] | None:
    """Return the spatial shape of a reference; None for a bare affine, which has none."""
    image = _load(reference) if isinstance(reference, str | os.PathLike) else reference
    if affine_of(image) is None:
        return None
    # the spatial axes are the last of a tensor, the first of a nibabel image
    return tuple(image.shape[-3:] if isinstance(image, torch.Tensor) else image.shape[:3])


def grid_affine(reference: Any, shape: Sequence[int], space: Sequence[int]) -> Affine | None:
    """Return the affine, in mm, of a volume; None if its reference has a third shape.

    The arguments are those of `reference_for_shape`.
    """
    image = reference_for_shape(reference, shape, space)
    image = _load(image) if isinstance(image, str | os.PathLike) else image
    if (grid_shape(image) or tuple(shape)) != tuple(shape):
        return None
    affine = affine_of(image)
    return _affine_in_mm(image if affine is None else affine, image)


def _affine_in_mm(affine: object, image: object) -> Affine:
    """Return an image's affine, converted from the unit of its header to mm."""
    scale = unit_in_mm(getattr(image, "header", None))
    return np.diag([scale, scale, scale, 1.0]) @ as_affine(affine)


def _nibabel() -> Any:  # as Any: nibabel's annotations are too incomplete for strict mypy
    import nibabel

    return nibabel


def _make_header(shape: tuple[int, ...], reference: object) -> Any:
    """Return a new Nifti1Header of the given shape with the reference's geometry."""
    nib = _nibabel()
    if isinstance(reference, str | os.PathLike):
        reference = _load(reference)
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    if isinstance(reference, nib.spatialimages.SpatialImage):
        _check_shape(shape, (*reference.shape, 1, 1)[: len(shape)])
        source, affine = reference.header, reference.affine
        # An image made without an affine takes the one of its header.
        affine = as_affine(source.get_best_affine() if affine is None else affine)
        # False for other formats, and for an affine that was changed after reading
        is_header_current = isinstance(source, nib.Nifti1Header) and np.allclose(
            affine, source.get_best_affine()
        )
        if is_header_current:
            for field in _GEOMETRY_FIELDS:
                header[field] = source[field]
            header["pixdim"][:4] = source["pixdim"][:4]
            sizes = header["pixdim"][1:4]
            if not bool(((sizes > 0) & np.isfinite(sizes)).all()):
                header["pixdim"][1:4] = spacing_of(affine)  # damaged: the affine decides
            return header
        affine = _affine_in_mm(affine, reference)
    else:
        affine = _affine_from_reference(shape, reference)
    # a qform cannot hold a sheared affine
    header.set_qform(affine, 0 if is_sheared(affine) else _ALIGNED)
    header.set_sform(affine, _ALIGNED)
    header["pixdim"][1:4] = spacing_of(affine)
    header.set_xyzt_units("mm")
    return header


def _affine_from_reference(shape: tuple[int, ...], reference: object) -> Affine:
    """Return the affine of a reference that is not a nibabel image."""
    if reference is None:
        _warn_identity()
        return np.eye(4)
    affine = affine_of(reference)
    if affine is None:
        if not isinstance(reference, torch.Tensor | np.ndarray | Sequence):
            raise InputTypeError(
                f"A reference is a NIfTI path, a nibabel image, a 4x4 affine or something with an "
                f"'affine' (MetaTensor), not {type(reference).__name__}."
            )
        return as_affine(reference)
    if isinstance(reference, torch.Tensor):  # MetaTensor: spatial axes last
        _check_shape(shape, (1, 1, *reference.shape)[-3:])
    return as_affine(affine)


def _load(path: str | os.PathLike[str]) -> Any:
    """Return the nibabel image of a path."""
    advice = "Pass a NIfTI file or its 4x4 affine."
    with foreign_errors(f"The reference '{path}' cannot be read", advice):
        image = _nibabel().load(path)
        image.affine, image.shape  # noqa: B018  # nibabel computes them when they are asked for
        return image


def _check_shape(shape: tuple[int, ...], reference_shape: tuple[int, ...]) -> None:
    """Raise if a volume's shape is not its reference's."""
    if shape == reference_shape:
        return
    advice = (
        "Pass the image on whose grid the map lies. If the model's input was a padded or cropped "
        "reference, crop or pad the map back. Only if it was resampled, resample the map: "
        "inject(data_shape=reference's shape), explain(shape=...)."
    )
    if shape == reference_shape[::-1]:
        advice = (
            "The axes are reversed: arrays of SimpleITK are z, y, x, NIfTI is x, y, z. Transpose "
            "the volume with .transpose(2, 1, 0) (torch: .permute(2, 1, 0))."
        )
    elif sorted(shape) == sorted(reference_shape):
        advice = (
            "The same extents in another order: bring the map's axes into the order of the image "
            "with .permute(...), e.g. slices first, [slices, H, W], to [X, Y, Z]."
        )
    raise InputError(
        f"The volume is {list(shape)}, its reference {list(reference_shape)}: they must be equal. "
        f"{advice}"
    )


@functools.cache
def _warn_identity() -> None:
    """Warn once per process.

    If a filter turns the warning into an error, it is raised every time: exceptions are not cached.
    """
    warn(
        "The map is saved without its image's geometry (identity affine: 1 mm voxels, no origin), "
        "so viewers will not lay it over the image. Pass reference=: the image, its path or its "
        "affine; to Explanation.save the image or its path, image=. This warning is shown once."
    )
