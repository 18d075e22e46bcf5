"""Arguments of a call: which are the model's, which are medcam's, and whether medcam's fit."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from medcam.engine.model.inputs import find_images
from medcam.engine.target.resolution import TargetLike
from medcam.errors import InputError, InputTypeError, MaskError, warn
from medcam.injection.call_arguments import ByImage, CallArguments
from medcam.injection.settings import Settings
from medcam.maps import ImageName

_POSITIONAL = ("label", "mask", "raw_input")
"""medcam's arguments, in the order of the original package."""

_KEYWORDS = ("reference", "data_shape")
"""Those that are given by name only; a model that takes any keyword gets them."""


class Parameters(NamedTuple):
    """The parameters of a model's own forward.

    Attributes:
        positional: The number of positional inputs; None if there may be any number.
        names: The names of all parameters.
        any_keyword: Whether there may be keywords of any name.
    """

    positional: int | None
    names: frozenset[str]
    any_keyword: bool = False


def parameters_of(forward: Callable[..., Any], *, bound: bool) -> Parameters:
    """Return the parameters of a forward method.

    Args:
        forward: The method, or the function that was put in its place.
        bound: Whether ``self`` is bound already; if not, the first parameter is left out.
    """
    parameters = list(inspect.signature(forward).parameters.values())[0 if bound else 1 :]
    names = frozenset(parameter.name for parameter in parameters)
    any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return Parameters(None, names, any_keyword)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return Parameters(len(positional), names, any_keyword)


def split(
    parameters: Parameters, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """Return the model's positional inputs, its keyword inputs, and medcam's arguments by name.

    Raises:
        InputError: There are too many positional arguments, or one is given twice.
    """
    medcam_arguments: dict[str, Any] = {}
    for name in (*_POSITIONAL, *_KEYWORDS):
        is_models = name in _KEYWORDS and parameters.any_keyword
        for key in (f"medcam_{name}", *([] if is_models else [name])):
            if key in kwargs and key not in parameters.names:
                medcam_arguments[name] = kwargs[key]
                kwargs = {k: v for k, v in kwargs.items() if k != key}
    # The original package accepted its input under this name.
    if "batch" in kwargs and "batch" not in parameters.names and not args:
        args = (kwargs["batch"],)
        kwargs = {k: v for k, v in kwargs.items() if k != "batch"}
    if parameters.positional != 1 or len(args) <= 1:
        return args, kwargs, medcam_arguments
    further = args[1:]
    if len(further) > len(_POSITIONAL):
        raise InputError(
            f"{len(args)} positional arguments were given: the model takes one, and medcam at most "
            "three after it (label, mask, raw_input)."
        )
    by_position = dict(_named_by_type(further))
    duplicates = sorted(set(by_position) & set(medcam_arguments))
    if duplicates:
        raise InputError(
            f"{', '.join(duplicates)} was given twice, by position and by name: give it once."
        )
    return args[:1], kwargs, {**medcam_arguments, **by_position}


def _named_by_type(further: Sequence[Any]) -> Iterable[tuple[str, Any]]:
    """Return the name of each further positional argument with its value.

    The paper writes ``model.forward(input, mask)``, the original package took
    ``forward(input, label, mask, raw_input)``: the type of the first argument decides.
    """
    first = further[0]
    values = list(first.values()) if isinstance(first, Mapping) else [first]
    masks = [
        item
        for value in values
        for item in (value if isinstance(value, (list, tuple)) and value else [value])
    ]
    is_mask = bool(masks) and all(
        isinstance(item, (Tensor, np.ndarray)) and item.ndim > 1 for item in masks
    )
    return zip(_POSITIONAL[1:] if is_mask else _POSITIONAL, further, strict=False)


def validate(
    settings: Settings,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    label: TargetLike,
    mask: Any,
    raw_input: Any,
    reference: Any = None,
) -> CallArguments:
    """Return medcam's arguments of a call, checked before the model runs.

    Args:
        settings: The options of `medcam.inject`.
        model: The injected model.
        args: The model's positional inputs.
        kwargs: The model's keyword inputs.
        label: What is explained in this call.
        mask: The ground truth.
        raw_input: The images that 2D maps are drawn over; for a batch of one, also the image
            itself.
        reference: The geometry of 3D maps: an affine, or an image for each sample.

    Raises:
        InputError: The mask is missing, or the number of raw inputs or references is wrong, or a
            reference cannot be read.
        InputTypeError: ``raw_input`` is a path, or a reference of a type that is not accepted.
    """
    if settings.evaluate and mask is None:
        raise InputError("evaluate=True needs the ground truth with each call: model(input, mask).")
    if mask is not None and not settings.scores:
        warn(
            "A mask was given, but maps are not scored: use inject(..., evaluate=True, "
            "output_dir=...)."
        )
    images = {item.name: item.tensor for item in find_images(args, kwargs, model, named=True)}
    first = next(iter(images.values()), None)
    return CallArguments(
        first,
        label,
        _for_images("mask", mask, images, first, _masks),
        _for_images("raw_input", raw_input, images, first, _raw_inputs),
        _for_images("reference", reference, images, first, _references),
    )


def _for_images(
    argument: str,
    value: Any,
    images: Mapping[ImageName, Tensor],
    first: Tensor | None,
    check: Callable[[Any, Tensor | None], Any],
) -> Any:
    """Return a checked argument, for the first image or by image.

    Raises:
        InputError: A name is none of an image.
    """
    if not isinstance(value, Mapping):
        return check(value, first)
    unknown = [name for name in value if name not in images]
    if unknown:
        raise InputError(
            f"{argument}= names {unknown}, but the images among the inputs are {list(images)}."
        )
    return ByImage({name: check(value[name], images[name]) for name in images if name in value})


def _masks(mask: Any, _: Tensor | None) -> Any:
    """Return a mask; a list of one for each sample as one tensor.

    Raises:
        MaskError: The masks of a list differ in shape, or are no numbers.
    """
    if hasattr(mask, "get_fdata"):  # nibabel's
        return np.asarray(mask.dataobj, np.float32)
    if not isinstance(mask, (list, tuple)):
        return mask
    try:
        return torch.stack([torch.as_tensor(_masks(item, None)) for item in mask])
    except (TypeError, ValueError, RuntimeError) as error:
        shapes = [
            tuple(item.shape) if hasattr(item, "shape") else type(item).__name__ for item in mask
        ]
        raise MaskError(
            f"The masks of the samples cannot be stacked: their shapes are {shapes}. Give a list "
            "of tensors or arrays of one shape, or one tensor [batch, 1, *space]."
        ) from error


def _references(reference: Any, image: Tensor | None) -> list[Any] | None:
    """Return one reference for each sample of a call, checked; None if there is none.

    Args:
        reference: As ``reference`` of a call: an affine, or an image for each sample.
        image: The image.

    Raises:
        InputError: Their number is not that of the samples, or one cannot be read.
        InputTypeError: A reference is of another type.
    """
    from medcam.files.formats.nifti import voxel_sizes

    if reference is None or image is None or image.ndim < 4:
        return None
    if image.ndim == 4:  # pictures have no place in mm, but those of one case may be its slices
        return [reference]
    batch = len(image)
    is_batch = getattr(reference, "ndim", 0) in (3, 5) and not hasattr(reference, "header")
    if is_batch and (reference.ndim == 5 or not hasattr(reference, "affine")):
        references = [reference[index] for index in range(len(reference))]
    elif isinstance(reference, list | tuple) and not _is_matrix(reference):
        references = list(reference)
    elif batch == 1 or is_plain_affine(reference):
        references = [reference] * batch
    else:
        references = [reference]  # the image of one case
    if len(references) != batch:
        raise InputError(
            f"reference= holds {len(references)} image(s) for {batch} sample(s): give one for each "
            "sample in a list, or one affine for all."
        )
    for single in references:
        voxel_sizes(single)
    return references


def _is_matrix(value: Any) -> bool:
    """Return whether nested lists are a 4x4 matrix of numbers."""
    try:
        return tuple(np.shape(value)) == (4, 4)
    except (ValueError, TypeError):  # lists of different lengths, or of tensors elsewhere
        return False


def is_plain_affine(reference: Any) -> bool:
    """Return whether a reference is a matrix, not the image of one case."""
    return not isinstance(reference, str | os.PathLike) and not hasattr(reference, "affine")


def _raw_inputs(raw_input: Any, image: Tensor | None) -> Any:
    """Return one raw input for each sample.

    Raises:
        InputError: Their number is not that of the samples.
        InputTypeError: A path was given.
    """
    if isinstance(raw_input, str | os.PathLike):
        raise InputTypeError(
            f"raw_input={str(raw_input)!r} is a path: give the image itself, an array or tensor "
            "with one image for each sample."
        )
    if raw_input is None or image is None:
        return raw_input
    if len(image) == 1 and (len(raw_input) != 1 or getattr(raw_input, "ndim", 3) == 2):
        raw_input = [raw_input]  # the image of the only sample, without a batch axis
    if len(raw_input) != len(image):
        raise InputError(
            f"raw_input holds {len(raw_input)} image(s) for {len(image)} sample(s): give one for "
            "each sample, e.g. [batch, 1, H, W]."
        )
    return raw_input
