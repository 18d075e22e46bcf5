"""Which of a model's inputs the maps lie on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medcam.errors import InputError


def first_image(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[int | str, Tensor] | None:
    """The first floating-point tensor with 2 or 3 spatial axes, and its place; None without one."""
    given: dict[int | str, Any] = dict(enumerate(args))
    given.update(kwargs)
    for name, value in given.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (4, 5):
            return name, value
    return None


def main_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int | str, Tensor]:
    """The input that the maps lie on: the first floating-point tensor with spatial axes."""
    given: dict[int | str, Any] = dict(enumerate(args))
    given.update(kwargs)
    floating = {
        name: value
        for name, value in given.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    found = first_image(args, kwargs)
    if found is not None:
        if 0 in found[1].shape:
            raise InputError(f"The input has shape {list(found[1].shape)}: it is empty.")
        return found
    shapes = [f"{name!r}: {list(value.shape)}" for name, value in floating.items()]
    integer = [
        name
        for name, value in given.items()
        if isinstance(value, Tensor) and value.ndim in (4, 5) and name not in floating
    ]
    remedy = ""
    if integer:
        remedy = f" Input {integer[0]!r} is a tensor of integers: convert it with .float()."
    elif any(value.ndim in (2, 3) for value in floating.values()):
        remedy = " Is the batch axis missing (add it: x[None]), or the channel axis (x[:, None])?"
    if not shapes and not integer and given:
        kinds = ", ".join(type(value).__name__ for value in given.values())
        remedy = (
            f" There is {kinds}: a numpy array needs torch.from_numpy; a file is read by "
            "medcam.files.read_image, or explained on the command line, `medcam explain`."
        )
    raise InputError(
        "No input has the shape [batch, channels, *space] with 2 or 3 spatial axes; given: "
        f"{', '.join(shapes) or 'no floating-point tensor'}.{remedy}"
    )


def with_leaf(
    args: tuple[Any, ...], kwargs: dict[str, Any], name: int | str
) -> tuple[tuple[Any, ...], dict[str, Any], Tensor]:
    """The inputs with the main one made differentiable; the user's tensor keeps its flags."""
    given = args[name] if isinstance(name, int) else kwargs[name]
    if given.requires_grad:
        leaf = given
    else:
        leaf = (given.clone() if given.is_inference() else given).detach().requires_grad_()
    passed = leaf.clone()
    if isinstance(name, int):
        return (*args[:name], passed, *args[name + 1 :]), kwargs, leaf
    return args, {**kwargs, name: passed}, leaf
