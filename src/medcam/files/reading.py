"""Reading of images: the reader is chosen by the file's ending; files on one grid are stacked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medcam.errors import InputError, unknown_name
from medcam.files.formats import itk, pictures
from medcam.files.formats.itk import read_itk
from medcam.files.formats.nifti_images import read_nifti
from medcam.files.formats.npy import read_npy
from medcam.files.formats.pictures import read_picture
from medcam.files.geometry import max_voxel_distance
from medcam.files.image import Image, sanitize_values
from medcam.files.paths import is_folder, require_file

READERS: dict[str, Callable[..., Image]] = {
    ".nii.gz": read_nifti,
    ".nii": read_nifti,
    **dict.fromkeys(itk.FORMATS, read_itk),
    **dict.fromkeys(pictures.ENDINGS, read_picture),
    ".npy": read_npy,
}
"""The reader of each file ending. ``.nii.gz`` comes first, as the first match counts."""

_MAX_DISTANCE = 1e-3  # mm, between the same voxel of two images on one grid


def read_image(
    path: str | os.PathLike[str],
    *,
    volume: int | None = None,
    as_channels: bool | None = None,
    fill: float | None = None,
) -> Image:
    """Read an image, ``[channels, *space]``, with its geometry.

    The formats are NIfTI (``.nii``, ``.nii.gz``), NRRD and MetaImage (``.nrrd``, ``.nhdr``,
    ``.mha``, ``.mhd``; with SimpleITK), pictures (``.png``, ``.jpg``, ``.tif``, ``.bmp``) and NumPy
    arrays (``.npy``).

    Ambiguous files are refused, not guessed at. The 4th axis of a volume, the components of a
    voxel, the pages of a TIFF and the first axis of an array may be volumes, channels or slices:
    ``volume`` or ``as_channels`` decides.

    Args:
        path: The file. Its format follows from its ending; its content is validated.
        volume: The index of one of several volumes, pages or components, counted from 0.
        as_channels: True if they are the channels of one image. False if the pages of a TIFF, or
            the first axis of an array of three, are slices along a spatial axis.
        fill: The replacement of NaN and infinite values, with a warning; None to refuse them.

    Raises:
        InputError: The file does not exist, has another format, is damaged or is ambiguous.
        MissingPackageError: NRRD and MetaImage files need SimpleITK, which is not installed.

    Example:
        >>> import tempfile, nibabel
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nibabel.save(
        ...         nibabel.Nifti1Image(np.ones((3, 4, 5), np.int16), np.diag([1, 1, 4, 1])),
        ...         Path(folder, "ct.nii.gz"),
        ...     )
        ...     image = read_image(Path(folder, "ct.nii.gz"))
        >>> image, image.spacing
        (Image([1, 3, 4, 5] int16 of 'ct.nii.gz'), (1.0, 1.0, 4.0))
    """
    path = Path(path)
    if is_folder(path):
        raise InputError(f"'{path}' is a folder, not an image: give its files one at a time.")
    name = path.name.lower()
    read = next((READERS[ending] for ending in READERS if name.endswith(ending)), None)
    if read is None:
        more = ""
        if name.endswith((".dcm", ".ima")):
            more = "Convert a DICOM series to NIfTI first (dcm2niix)."
        raise unknown_name("Image format", path.suffix or path.name, READERS, more=more)
    require_file(path, "The image")
    image = read(path, volume=volume, as_channels=as_channels)
    return dataclasses.replace(image, array=sanitize_values(image.array, path, fill))


def stack_images(
    paths: Sequence[str | os.PathLike[str]],
    *,
    volume: int | None = None,
    fill: float | None = None,
) -> Image:
    """Stack files of one channel each, e.g. the sequences of an MRI, to one image.

    Args:
        paths: The files, in the order of the channels. They must lie on one grid: their shapes are
            equal, and each voxel has the same position in every file, up to 0.001 mm.
        volume: See `read_image`; the same for every file.
        fill: See `read_image`.

    Returns:
        The image, ``[channels, *space]``, with the geometry of the first file.

    Raises:
        InputError: A file cannot be read, has several channels, or lies on another grid.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     names = [Path(folder, name) for name in ("t1.npy", "t2.npy")]
        ...     for name in names:
        ...         np.save(name, np.ones((4, 5), np.float32))
        ...     stack_images(names).array.shape
        (2, 4, 5)
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    if not paths:
        raise InputError("No image was given to stack: give at least one path.")
    images = [read_image(path, volume=volume, fill=fill) for path in paths]
    first = images[0]
    for image in images:
        if len(image.array) != 1:
            raise InputError(
                f"'{image.path}' has {len(image.array)} channels: only files of one channel can "
                "be stacked. Give this file alone."
            )
        difference = _describe_grid_difference(first, image)
        if difference:
            raise InputError(
                f"'{first.path}' and '{image.path}' do not lie on one grid: {difference}. Resample "
                "one to the other first."
            )
    return dataclasses.replace(
        first,
        array=np.concatenate([image.array for image in images]),
        paths=tuple(path for image in images for path in image.paths),
    )


def _describe_grid_difference(first: Image, other: Image) -> str | None:
    """Return how two grids differ, as part of a sentence; None if they are equal."""
    if first.space != other.space:
        return f"their shapes are {list(first.space)} and {list(other.space)}"
    if (first.affine is None) != (other.affine is None):
        unplaced = first if first.affine is None else other
        assert unplaced.path is not None  # noqa: S101  # it was just read
        return f"'{unplaced.path.name}' does not say where its voxels lie"
    if first.affine is not None and other.affine is not None:
        distance = max_voxel_distance(first.affine, other.affine, first.space)
        if distance <= _MAX_DISTANCE:
            return None
        affines = f"{first.affine.tolist()} and {other.affine.tolist()}"
        return f"voxels lie up to {distance:.4g} mm apart (affines {affines})"
    if (first.spacing is None) != (other.spacing is None) or not np.allclose(
        first.spacing or 0, other.spacing or 0, rtol=1e-5, atol=0
    ):
        return f"their voxels are {first.spacing} and {other.spacing} mm"
    return None
