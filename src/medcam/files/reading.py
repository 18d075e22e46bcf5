"""Images of every format that medcam reads, with their geometry."""

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
from medcam.files.geometry import furthest_apart
from medcam.files.image import Image, real_numbers

READERS: dict[str, Callable[..., Image]] = {
    ".nii.gz": read_nifti,
    ".nii": read_nifti,
    **dict.fromkeys(itk.FORMATS, read_itk),
    **dict.fromkeys(pictures.ENDINGS, read_picture),
    ".npy": read_npy,
}
"""What reads the files of each ending."""

_SAME_PLACE = 1e-3  # mm, at the corner where two grids differ most


def read_image(
    path: str | os.PathLike[str],
    *,
    volume: int | None = None,
    as_channels: bool | None = None,
    fill: float | None = None,
) -> Image:
    """Reads an image: ``[channels, *space]`` and where its voxels lie.

    NIfTI (``.nii``, ``.nii.gz``), NRRD and MetaImage (``.nrrd``, ``.nhdr``, ``.mha``, ``.mhd``;
    by SimpleITK), pictures (``.png``, ``.jpg``, ``.tif``, ``.bmp``) and ``.npy`` arrays. Nothing
    about a file is guessed. What it leaves open is refused until the caller says it: what the 4th
    axis of a volume, the components of a voxel, the pages of a TIFF or the first axis of an array
    stand for.

    Args:
        path: The file. Its ending says its format, its content is checked.
        volume: Takes this one of several volumes, pages or components, counted from 0.
        as_channels: True: they are the channels of one image. False, for pages of a TIFF and
            arrays of three axes: they are slices along a further axis of space.
        fill: What NaN and infinite values become, with a warning; None: they are refused.

    Raises:
        InputError: No such file, another format, damaged, or something is left open; the message
            says what.
        MissingPackageError: NRRD or MetaImage without SimpleITK.

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
    if path.is_dir():
        raise InputError(f"'{path}' is a folder, not an image: give its files one at a time.")
    name = path.name.lower()
    read = next((READERS[ending] for ending in READERS if name.endswith(ending)), None)
    if read is None:
        more = ""
        if name.endswith((".dcm", ".ima")):
            more = "Convert a DICOM series to NIfTI first (dcm2niix)."
        raise unknown_name("Image format", path.suffix or path.name, READERS, more=more)
    if not path.is_file():
        raise InputError(f"The image '{path}' does not exist.")
    image = read(path, volume=volume, as_channels=as_channels)
    return dataclasses.replace(image, array=real_numbers(image.array, path, fill))


def stack_images(
    paths: Sequence[str | os.PathLike[str]],
    *,
    volume: int | None = None,
    fill: float | None = None,
) -> Image:
    """Joins files of one channel each (the sequences of an MRI, say) into one image.

    Args:
        paths: The files, in the order of the channels. All must lie on one grid: the same shape,
            and no voxel further than 0.001 mm from its fellow.
        volume: See `read_image`; the same for every file.
        fill: See `read_image`.

    Returns:
        The image ``[channels, *space]`` with the geometry of the first file.

    Raises:
        InputError: A file of several channels, or of another grid: the message says how they
            differ; or one that cannot be read.

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
                f"'{image.path}' has {len(image.array)} channels: files of one channel each are "
                "stacked. Give it alone."
            )
        difference = _difference(first, image)
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


def _difference(first: Image, other: Image) -> str | None:
    """How two grids differ; None if they do not."""
    if first.space != other.space:
        return f"their shapes are {list(first.space)} and {list(other.space)}"
    if (first.affine is None) != (other.affine is None):
        silent = first if first.affine is None else other
        assert silent.path is not None  # noqa: S101  # it was just read
        return f"'{silent.path.name}' does not say where its voxels lie"
    if first.affine is not None and other.affine is not None:
        apart = furthest_apart(first.affine, other.affine, first.space)
        if apart <= _SAME_PLACE:
            return None
        affines = f"{first.affine.tolist()} and {other.affine.tolist()}"
        return f"voxels lie up to {apart:.4g} mm apart (affines {affines})"
    if (first.spacing is None) != (other.spacing is None) or not np.allclose(
        first.spacing or 0, other.spacing or 0, rtol=1e-5, atol=0
    ):
        return f"their voxels are {first.spacing} and {other.spacing} mm"
    return None
