"""Saving of raw maps: float32 values on the grid of their image, in the format of the ending."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, unknown_name
from medcam.files.arrays import to_map
from medcam.files.formats.itk import ItkGrid, grid_from_affine, save_itk
from medcam.files.formats.nifti import save_nifti
from medcam.files.formats.npy import save_npy
from medcam.files.formats.pictures import save_tiff
from medcam.files.geometry import as_affine
from medcam.files.image import Image
from medcam.files.reading import read_image

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".tif", ".tiff", ".npy")
"""The formats that raw maps are saved in."""

_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")


def save_map(
    path: str | os.PathLike[str], values: object, like: Image | str | os.PathLike[str]
) -> Path:
    """Write the raw values of a map as float32, with the geometry of its image.

    Args:
        path: The file; its ending decides the format. ``.nii.gz`` and ``.nii`` take over the sform
            and qform of a NIfTI image with their codes, bit by bit, and the affine of any other
            image. ``.nrrd`` and ``.mha`` store the geometry as SimpleITK does. ``.tif`` and
            ``.npy`` are for images without a geometry, such as pictures.
        values: Finite real numbers in the image's spatial shape; axes of one voxel may be missing.
        like: The image, from `read_image` or `stack_images`, or its path.

    Returns:
        The path.

    Raises:
        InputError: The map has another shape than the image or is not finite, the ending is not
            known, or the format cannot hold the image's geometry.
        MissingPackageError: ``.nrrd`` and ``.mha`` need SimpleITK, which is not installed.
        SaveError: The file could not be written.

    Example:
        >>> import tempfile
        >>> image = Image(np.zeros((1, 3, 4, 5)), np.diag([1.0, 1.0, 4.0, 1.0]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_map(Path(folder, "map.nii.gz"), np.ones((3, 4, 5)), image).name
        'map.nii.gz'
    """
    path = Path(path)
    name = path.name.lower()
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
    if ending is None:
        more = f"Raw maps are saved as {', '.join(ENDINGS)}."
        if path.suffix.lower() in _PICTURE_ENDINGS:
            more += " Use medcam.save to make a picture of the map."
        raise unknown_name("Map format", path.suffix or path.name, ENDINGS, more=more)
    if isinstance(like, str | os.PathLike):
        like = read_image(like, volume=0)
    array = _in_image_shape(values, like)
    try:
        if ending in (".nii", ".nii.gz"):
            return save_nifti(path, *_nifti_arguments(array, like))
        if ending in (".nrrd", ".mha"):
            return save_itk(path, *_itk_arguments(array, like))
    except _UnsupportedGeometry as reason:
        raise InputError(f"The map cannot be saved as '{path.name}': {reason}") from None
    if like.affine is not None or like.source is not None:
        raise InputError(
            f"The map cannot be saved as '{path.name}': the format cannot hold where the image's "
            "voxels lie. Save it as .nii.gz, .nrrd or .mha."
        )
    return save_npy(path, array) if ending == ".npy" else save_tiff(path, array)


class _UnsupportedGeometry(Exception):  # noqa: N818  # internal: save_map makes an InputError of it
    """The reason why a format cannot hold the geometry of an image."""


def _in_image_shape(values: object, like: Image) -> NDArray[np.float32]:
    """Return the map in the image's spatial shape, with missing axes of one voxel added."""
    array = to_map(values)
    space = like.space
    if array.shape == space or array.shape == tuple(extent for extent in space if extent > 1):
        return array.reshape(space)
    image = "its image" if like.path is None else f"its image '{like.path.name}'"
    raise InputError(
        f"The map is {list(array.shape)}, {image} {list(space)}: they must be equal. Explain with "
        "shape='input', and save each sample, target and channel by itself."
    )


def _nifti_arguments(array: NDArray[np.float32], like: Image) -> tuple[NDArray[np.float32], Any]:
    """Return the array and the reference for `save_nifti`."""
    import nibabel as nib

    if isinstance(like.source, nib.Nifti1Header):  # of NIfTI-2, too: its header is a subclass
        voxels = np.broadcast_to(np.int16(0), like.space)  # only the shape is used
        header = like.source.copy()
        header.set_data_dtype(np.int16)
        image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        return array, image_class(voxels, None, header)
    if like.affine is None:
        formats = ".nrrd or .mha" if like.source is not None else ".npy or .tif"
        raise _UnsupportedGeometry(
            "it is not known where the image's voxels lie in the patient, but NIfTI has to store "
            f"it. Save it as {formats}."
        )
    return array[(...,) + (None,) * (3 - array.ndim)], as_affine(like.affine)


def _itk_arguments(array: NDArray[np.float32], like: Image) -> tuple[NDArray[np.float32], ItkGrid]:
    """Return the array and the grid for `save_itk`."""
    if isinstance(like.source, ItkGrid):
        return array, like.source
    if like.affine is None:
        formats = ".nii.gz" if like.source is not None else ".npy or .tif"
        raise _UnsupportedGeometry(
            "it is not known where the image's voxels lie in the patient, but the format has to "
            f"store it. Save it as {formats}."
        )
    try:
        grid = grid_from_affine(as_affine(like.affine))
    except InputError as error:
        raise _UnsupportedGeometry(str(error)) from error
    return array[(...,) + (None,) * (3 - array.ndim)], grid
