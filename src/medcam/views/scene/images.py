"""Read the image, mask or labels of one sample from any form: a path, a batch, a MetaTensor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcam.errors import InputError, InputTypeError, MaskError
from medcam.files.arrays import to_array
from medcam.files.formats.npy import read_signal
from medcam.files.geometry import Affine, affine_of, as_affine
from medcam.files.image import Image
from medcam.files.reading import read_image, stack_images

# Formats that do not say whether an additional axis holds channels or slices.
_AMBIGUOUS_AXIS = (".npy", ".tif", ".tiff")


def image_of(
    source: object, axes: int, *, sample: int = 0, batch: int = 1, affine: object = None
) -> Image:
    """Return one sample's image ``[channels, *space]``, with its affine if that is known.

    Args:
        source: An `Image` or nibabel image; a path, or a list of one per channel; an array, tensor
            ``[*space]``, ``[channels, *space]``, ``[batch, channels, *space]`` or ``[H, W, 3]``.
            The affine of a MetaTensor is used. For a batch, also a list with one of these for each
            sample.
        axes: The number of spatial axes.
        sample: The sample's index in the batch.
        batch: The number of samples.
        affine: 4x4, from voxel indices to RAS+ mm; replaces the image's own. None: the image's own.

    Raises:
        InputError: The shape or the number of samples does not fit, or a file cannot be read.
        InputTypeError: The source is of another type.

    Example:
        >>> image_of(np.zeros((5, 1, 3, 4)), 2, sample=2, batch=5)
        Image([1, 3, 4] float64)
    """
    if isinstance(source, list | tuple) and batch > 1:
        if len(source) != batch:
            raise InputError(
                f"There are {len(source)} images for {batch} samples: give one for each."
            )
        return image_of(source[sample], axes, affine=affine)
    if isinstance(source, Image):
        image = source
    elif isinstance(source, str | os.PathLike):
        image = read_with_axes(source, axes)
    elif _are_paths(source):
        image = stack_images(source, fill=0.0)  # type: ignore[arg-type]  # a list of paths
    elif hasattr(source, "get_fdata"):
        image = _image_of_nibabel(source)
    else:
        image = _image_from_array(source, axes, sample, batch)
    if len(image.space) != axes:
        raise InputError(
            f"The image {list(image.space)} has {len(image.space)} spatial axes, its maps {axes}: "
            "give the image that was explained."
        )
    if affine is None or axes != 3:
        return image
    matrix = as_affine(affine, "The affine")
    spacing = tuple(float(size) for size in np.linalg.norm(matrix[:3, :3], axis=0))
    return Image(image.array, matrix, spacing, image.paths)


def displayed_array(image: Image) -> NDArray[Any]:
    """Return the array of an image to display.

    Pictures of three channels are shown in colour, ``[H, W, 3]``; of all other images the first
    channel is shown, ``[*space]``. Of a signal all channels are shown, ``[channels, time]``.

    Example:
        >>> volume, picture = Image(np.zeros((3, 4, 5, 6))), Image(np.zeros((3, 4, 5)))
        >>> displayed_array(volume).shape, displayed_array(picture).shape
        ((4, 5, 6), (4, 5, 3))
    """
    if len(image.array) == 3 and len(image.space) == 2:
        return np.moveaxis(image.array, 0, 2)
    if len(image.space) == 1:
        return image.array
    first_channel: NDArray[Any] = image.array[0]
    return first_channel


def mask_of(source: object, axes: int, *, sample: int = 0, batch: int = 1) -> NDArray[Any]:
    """Return one sample's mask ``[*space]``.

    Args:
        source: A path, whose non-zero voxels are the mask; or a nibabel image, or an array
            ``[*space]``, ``[batch, *space]`` or ``[batch, 1, *space]``. That it is 0/1 is checked
            by `Scene`.
        axes: The number of spatial axes.
        sample: The sample's index in the batch.
        batch: The number of samples.

    Raises:
        MaskError: The number of axes, samples or channels does not fit.

    Example:
        >>> mask_of(np.ones((2, 1, 3, 4)), 2, sample=1, batch=2).shape
        (3, 4)
    """
    if isinstance(source, str | os.PathLike):
        return np.asarray(read_with_axes(source, axes).array[0] != 0)
    return labels_of(source, axes, sample=sample, batch=batch, name="mask")


def labels_of(
    source: object, axes: int, *, sample: int = 0, batch: int = 1, name: str = "segmentation"
) -> NDArray[Any]:
    """Return one sample's labels ``[*space]``.

    Args:
        source: As in `mask_of`, but the values of a file are returned unchanged.
        axes: The number of spatial axes.
        sample: The sample's index in the batch.
        batch: The number of samples.
        name: The word for the array in an error.

    Raises:
        MaskError: The number of axes, samples or channels does not fit.

    Example:
        >>> labels_of(np.full((1, 2, 1), 3), 2).tolist()
        [[3], [3]]
    """
    if isinstance(source, str | os.PathLike):
        return np.asarray(read_with_axes(source, axes).array[0])
    if isinstance(source, Image):
        return np.asarray(source.array[0])
    if hasattr(source, "get_fdata"):
        source = _image_of_nibabel(source).array
        source = source[0] if len(source) == 1 else source
    labels = to_array(source, f"The {name}")
    if labels.ndim == axes + 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == axes + 1 and len(labels) == batch:
        labels = labels[sample]
    if labels.ndim != axes:
        raise MaskError(
            f"The {name} is {list(labels.shape)}: give [*space], [{batch}, *space] or "
            f"[{batch}, 1, *space] with {axes} spatial axes."
        )
    return labels


def read_with_axes(path: str | os.PathLike[str], axes: int) -> Image:
    """Read a file; the number of spatial axes decides where the format is ambiguous.

    A signal is a ``.npy`` file ``[time]`` or ``[channels, time]``.
    """
    if axes == 1:
        return read_signal(Path(path))
    image = read_image(path, as_channels=True, fill=0.0)
    ambiguous = image.path is not None and image.path.suffix.lower() in _AMBIGUOUS_AXIS
    if len(image.space) != axes and ambiguous:
        return read_image(path, as_channels=False, fill=0.0)
    return image


def _are_paths(source: object) -> bool:
    """Return whether the source is a non-empty list or tuple of paths."""
    return (
        isinstance(source, list | tuple)
        and len(source) > 0
        and all(isinstance(item, str | os.PathLike) for item in source)
    )


def _image_of_nibabel(source: Any) -> Image:
    """Return a nibabel image ``[X, Y, Z]``, or with channels ``[X, Y, Z, C]``, with its affine."""
    values = np.asarray(source.dataobj)
    array = np.moveaxis(values, -1, 0) if values.ndim == 4 else values[None]
    affine = as_affine(source.affine, "The image's affine")
    return Image(array, affine, tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist()))


def _image_from_array(source: Any, axes: int, sample: int, batch: int) -> Image:
    if not isinstance(source, torch.Tensor | np.ndarray | Sequence) or isinstance(source, str):
        raise InputTypeError(
            "An image is a path, an Image of medcam.files, a nibabel image, an array or a tensor, "
            f"not {type(source).__name__}."
        )
    if not hasattr(source, "ndim"):
        source = to_array(source, "The image")
    if source.ndim == axes + 2:
        if len(source) != batch:
            raise InputError(
                f"The image holds {len(source)} samples, the maps {batch}: give the image of each."
            )
        source = source[sample]
    affine = _affine_of(source) if axes == 3 else None
    array = to_array(source, "The image")
    if array.ndim == axes:
        array = array[None]
    elif axes == 2 and array.ndim == 3 and array.shape[2] == 3 and array.shape[0] != 3:
        array = np.moveaxis(array, 2, 0)
    if array.ndim != axes + 1 or not array.size:
        raise InputError(
            f"The image is {list(array.shape)}: give [*space], [channels, *space] or [batch, "
            f"channels, *space] with {axes} spatial axes."
        )
    spacing = None if affine is None else tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    return Image(array, affine, spacing)


def _affine_of(source: object) -> Affine | None:
    """Return the affine that an array carries, such as MONAI's MetaTensor, or None."""
    affine = affine_of(source)
    return None if affine is None else as_affine(affine, "The image's affine")
