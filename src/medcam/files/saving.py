"""Raw maps in the geometry of the image that they are maps of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, unknown_name
from medcam.files.arrays import to_map
from medcam.files.formats.itk import ItkGrid, grid_of, save_itk
from medcam.files.formats.nifti import save_nifti
from medcam.files.formats.npy import save_npy
from medcam.files.formats.pictures import save_tiff
from medcam.files.geometry import as_affine
from medcam.files.image import Image
from medcam.files.reading import read_image

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".tif", ".tiff", ".npy")
"""The formats that raw maps are saved in."""

_SEEN = (".png", ".jpg", ".jpeg", ".bmp")


def save_map(
    path: str | os.PathLike[str], values: object, like: Image | str | os.PathLike[str]
) -> Path:
    """Writes a map as float32, with its raw values, exactly where its image lies.

    Args:
        path: The file. ``.nii.gz`` or ``.nii``: of a NIfTI image the sform and qform with their
            codes, bit by bit; else its affine. ``.nrrd`` or ``.mha``: the same place as SimpleITK
            has it. ``.tif`` or ``.npy``: for images without a place, such as pictures.
        values: ``[*space]`` of the image, finite real numbers; axes of one voxel may be missing.
        like: The image, of `read_image` or `stack_images`, or its path.

    Returns:
        The path.

    Raises:
        InputError: Another shape than the image's, NaN, another ending, or a format that cannot
            keep what is known of the image's place; the message says what.
        MissingPackageError: ``.nrrd`` or ``.mha`` without SimpleITK.
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
    ending = next((known for known in ENDINGS if name.endswith(known)), None)
    if ending is None:
        more = f"Raw maps are saved as {', '.join(ENDINGS)}."
        if path.suffix.lower() in _SEEN:
            more += " A picture to look at is made by medcam.save."
        raise unknown_name("Map format", path.suffix or path.name, ENDINGS, more=more)
    if isinstance(like, str | os.PathLike):
        like = read_image(like, volume=0)
    array = _on_grid(values, like)
    try:
        if ending in (".nii", ".nii.gz"):
            return save_nifti(path, *_nifti(array, like))
        if ending in (".nrrd", ".mha"):
            return save_itk(path, *_itk(array, like))
    except _NotKept as reason:
        raise InputError(f"The map cannot be saved as '{path.name}': {reason}") from None
    if like.affine is not None or like.source is not None:
        raise InputError(
            f"The map cannot be saved as '{path.name}': the format cannot hold where the image's "
            "voxels lie. Save it as .nii.gz, .nrrd or .mha."
        )
    return save_npy(path, array) if ending == ".npy" else save_tiff(path, array)


class _NotKept(Exception):  # noqa: N818  # a reason, made an error with the file's name above
    """Why a format cannot hold the geometry of an image."""


def _on_grid(values: object, like: Image) -> NDArray[np.float32]:
    """The map with all the axes of the image."""
    array = to_map(values)
    space = like.space
    if array.shape == space or array.shape == tuple(extent for extent in space if extent > 1):
        return array.reshape(space)
    whose = "its image" if like.path is None else f"its image '{like.path.name}'"
    raise InputError(
        f"The map is {list(array.shape)}, {whose} {list(space)}: they must be equal. Explain with "
        "shape='input', and save each sample, target and channel by itself."
    )


def _nifti(array: NDArray[np.float32], like: Image) -> tuple[NDArray[np.float32], Any]:
    """The array and the reference that `save_nifti` takes."""
    import nibabel as nib

    if isinstance(like.source, nib.Nifti1Header):  # NIfTI-2 headers too
        place = np.broadcast_to(np.int16(0), like.space)  # only its shape counts
        header = like.source.copy()
        header.set_data_dtype(np.int16)
        kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        return array, kind(place, None, header)
    if like.affine is None:
        raise _NotKept(
            "it is not known where the image's voxels lie in the patient, which NIfTI has to say. "
            + (
                "Save it as .nrrd or .mha."
                if like.source is not None
                else "Save it as .npy or .tif."
            )
        )
    return array[(...,) + (None,) * (3 - array.ndim)], as_affine(like.affine)


def _itk(array: NDArray[np.float32], like: Image) -> tuple[NDArray[np.float32], ItkGrid]:
    """The array and the grid that `save_itk` takes."""
    if isinstance(like.source, ItkGrid):
        return array, like.source
    if like.affine is None:
        raise _NotKept(
            "it is not known where the image's voxels lie in the patient, which the format has to "
            f"say. Save it as {'.nii.gz' if like.source is not None else '.npy or .tif'}."
        )
    try:
        grid = grid_of(as_affine(like.affine))
    except InputError as error:
        raise _NotKept(str(error)) from error
    return array[(...,) + (None,) * (3 - array.ndim)], grid
