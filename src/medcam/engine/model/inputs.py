"""Choose the model's main input: the image that the maps lie on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medcam.engine.model.copies import strided_copy
from medcam.engine.model.leaves import new_leaf
from medcam.errors import InputError


def main_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int | str, Tensor]:
    """Return the first image among the inputs, with its position or keyword.

    Raises:
        InputError: No input is an image, or the first image is empty.
    """
    position_and_image = first_image(args, kwargs)
    if position_and_image is None:
        raise InputError(_no_image_message(_by_name(args, kwargs)))
    _, image = position_and_image
    if 0 in image.shape:
        raise InputError(f"The input has shape {list(image.shape)}: it is empty.")
    return position_and_image


def first_image(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[int | str, Tensor] | None:
    """Return the first floating-point tensor with 2 or 3 spatial axes; None if there is none.

    Args:
        args: The positional inputs of the model.
        kwargs: Its keyword inputs.

    Returns:
        The tensor ``[batch, channels, *space]``, after its position or keyword.
    """
    for name, value in _by_name(args, kwargs).items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (4, 5):
            return name, value
    return None


def with_leaf(
    args: tuple[Any, ...], kwargs: dict[str, Any], name: int | str, own: Tensor | None = None
) -> tuple[tuple[Any, ...], dict[str, Any], Tensor]:
    """Return the inputs with the main one attached to a leaf, and that leaf.

    The user's tensor keeps its ``requires_grad``. The model gets a copy of the leaf, which it may
    change in place.

    Args:
        args: The positional inputs of the model.
        kwargs: Its keyword inputs.
        name: The position or keyword of the main input.
        own: The leaf if it is the caller's own tensor (`medcam.engine.own_input`).
    """
    image = own
    if image is None:
        image = args[name] if isinstance(name, int) else kwargs[name]
    if image.requires_grad:
        leaf = image
    else:
        leaf = new_leaf(strided_copy(image) if image.is_inference() else image)
    copy = strided_copy(leaf)
    if isinstance(name, int):
        return (*args[:name], copy, *args[name + 1 :]), kwargs, leaf
    return args, {**kwargs, name: copy}, leaf


def _by_name(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[int | str, Any]:
    """Return all inputs by their position or keyword."""
    inputs: dict[int | str, Any] = dict(enumerate(args))
    inputs.update(kwargs)
    return inputs


def _no_image_message(inputs: Mapping[int | str, Any]) -> str:
    """Return the error message for inputs of which none is an image, with a likely remedy."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    integer_images = [
        name
        for name, tensor in tensors.items()
        if tensor.ndim in (4, 5) and not tensor.is_floating_point()
    ]
    remedy = ""
    if integer_images:
        remedy = f" Input {integer_images[0]!r} is a tensor of integers: convert it with .float()."
    elif any(tensor.ndim in (2, 3) for tensor in floating.values()):
        remedy = " Is the batch axis missing (add it: x[None]), or the channel axis (x[:, None])?"
    if inputs and not floating and not integer_images:
        kinds = ", ".join(type(value).__name__ for value in inputs.values())
        remedy = (
            f" The inputs are of type {kinds}: convert a NumPy array with torch.from_numpy; read "
            "a file with medcam.files.read_image, or explain it on the command line with "
            "`medcam explain`."
        )
    shapes = ", ".join(f"{name!r}: {list(tensor.shape)}" for name, tensor in floating.items())
    return (
        "No input has the shape [batch, channels, *space] with 2 or 3 spatial axes; given: "
        f"{shapes or 'no floating-point tensor'}.{remedy}"
    )
