"""The image under a map, whatever it is given as: a path, a batch, a MetaTensor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcam.errors import InputError, InputTypeError, MaskError
from medcam.files.arrays import to_array
from medcam.files.geometry import Affine, as_affine
from medcam.files.image import Image
from medcam.files.reading import read_image, stack_images

_BY_PAGES = (".npy", ".tif", ".tiff")  # files whose further axis may be one of space


def image_of(
    given: object, axes: int, *, sample: int = 0, batch: int = 1, affine: object = None
) -> Image:
    """Gives one sample's image ``[channels, *space]``, with its place as far as it is known.

    Args:
        given: An `Image`; a path, or one for each channel; an array or tensor ``[*space]``,
            ``[channels, *space]``, ``[batch, channels, *space]`` or ``[H, W, 3]``, of which a
            MetaTensor brings its affine; of a batch, a list with one of these for each sample.
        axes: How many axes of space there are.
        sample: Which one of the batch.
        batch: How many samples there are.
        affine: 4x4, from voxel indices to RAS+ mm, for what has none. None: the image's own.

    Raises:
        InputError: Another shape, another number of samples, or a file that cannot be read.
        InputTypeError: Something else.

    Example:
        >>> image_of(np.zeros((5, 1, 3, 4)), 2, sample=2, batch=5)
        Image([1, 3, 4] float64)
    """
    several = isinstance(given, list | tuple)
    if several and batch > 1:
        assert isinstance(given, list | tuple)  # noqa: S101  # as was just seen
        if len(given) != batch:
            raise InputError(
                f"There are {len(given)} images for {batch} samples: give one for each."
            )
        return image_of(given[sample], axes, affine=affine)
    if isinstance(given, Image):
        image = given
    elif isinstance(given, str | os.PathLike):
        image = _read(given, axes)
    elif several and given and all(isinstance(one, str | os.PathLike) for one in given):  # type: ignore[attr-defined]  # a sequence
        image = stack_images(given, fill=0.0)  # type: ignore[arg-type]  # of paths
    else:
        image = _from_array(given, axes, sample, batch)
    if len(image.space) != axes:
        raise InputError(
            f"The image {list(image.space)} has {len(image.space)} axes of space, its maps {axes}: "
            "give the image that was explained."
        )
    if affine is None or axes != 3:
        return image
    placed = as_affine(affine, "The affine")
    spacing = tuple(float(size) for size in np.linalg.norm(placed[:3, :3], axis=0))
    return Image(image.array, placed, spacing, image.paths)


def displayed(image: Image) -> NDArray[Any]:
    """Gives what is shown of an image: a picture's colours ``[H, W, 3]``, or the first channel.

    Example:
        >>> displayed(Image(np.zeros((3, 4, 5)))).shape, displayed(Image(np.zeros((2, 4, 5)))).shape
        ((4, 5, 3), (4, 5))
    """
    if len(image.array) == 3 and len(image.space) == 2:
        return np.moveaxis(image.array, 0, 2)
    first: NDArray[Any] = image.array[0]
    return first


def mask_of(given: object, axes: int, *, sample: int = 0, batch: int = 1) -> NDArray[Any]:
    """Gives one sample's mask ``[*space]``.

    Args:
        given: A path, of which all that is not 0 counts; or ``[*space]``, ``[batch, *space]`` or
            ``[batch, 1, *space]``, which the caller checks to be 0/1.
        axes: How many axes of space there are.
        sample: Which one of the batch.
        batch: How many samples there are.

    Raises:
        MaskError: Another number of axes, samples or channels.

    Example:
        >>> mask_of(np.ones((2, 1, 3, 4)), 2, sample=1, batch=2).shape
        (3, 4)
    """
    if isinstance(given, str | os.PathLike):
        return np.asarray(_read(given, axes).array[0] != 0)
    return labels_of(given, axes, sample=sample, batch=batch, what="mask")


def labels_of(
    given: object, axes: int, *, sample: int = 0, batch: int = 1, what: str = "segmentation"
) -> NDArray[Any]:
    """Gives one sample's labels ``[*space]``.

    Args:
        given: As in `mask_of`; of a path, the values as they are.
        axes: As there.
        sample: As there.
        batch: As there.
        what: What it is called in an error.

    Raises:
        MaskError: Another number of axes, samples or channels.

    Example:
        >>> labels_of(np.full((1, 2, 1), 3), 2).tolist()
        [[3], [3]]
    """
    if isinstance(given, str | os.PathLike):
        return np.asarray(_read(given, axes).array[0])
    if isinstance(given, Image):
        return np.asarray(given.array[0])
    found = to_array(given, f"The {what}")
    if found.ndim == axes + 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim == axes + 1 and len(found) in (1, batch):
        found = found[sample if len(found) > 1 else 0]
    if found.ndim != axes:
        raise MaskError(
            f"The {what} is {list(found.shape)}: give [*space], [{batch}, *space] or "
            f"[{batch}, 1, *space] with {axes} axes of space."
        )
    return found


def _read(path: str | os.PathLike[str], axes: int) -> Image:
    """Reads a file; how many axes of space there are decides what the file leaves open."""
    image = read_image(path, as_channels=True, fill=0.0)
    open_to_both = image.path is not None and image.path.suffix.lower() in _BY_PAGES
    if len(image.space) != axes and open_to_both:
        return read_image(path, as_channels=False, fill=0.0)
    return image


def _from_array(given: Any, axes: int, sample: int, batch: int) -> Image:
    if not isinstance(given, torch.Tensor | np.ndarray | Sequence) or isinstance(given, str):
        raise InputTypeError(
            f"An image is a path, an Image of medcam.files, an array or a tensor, not "
            f"{type(given).__name__}."
        )
    if not hasattr(given, "ndim"):
        given = to_array(given, "The image")
    if given.ndim == axes + 2:
        if len(given) != batch:
            raise InputError(
                f"The image holds {len(given)} samples, the maps {batch}: give the image of each."
            )
        given = given[sample]
    affine = _own_affine(given) if axes == 3 else None
    array = to_array(given, "The image")
    if array.ndim == axes:
        array = array[None]
    elif axes == 2 and array.ndim == 3 and array.shape[2] == 3 and array.shape[0] != 3:
        array = np.moveaxis(array, 2, 0)
    if array.ndim != axes + 1 or not array.size:
        raise InputError(
            f"The image is {list(array.shape)}: give [*space], [channels, *space] or [batch, "
            f"channels, *space] with {axes} axes of space."
        )
    spacing = None if affine is None else tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    return Image(array, affine, spacing)


def _own_affine(given: object) -> Affine | None:
    affine = getattr(given, "affine", None)
    return None if affine is None else as_affine(affine, "The image's affine")
