"""Find the images among a model's inputs, and choose those that maps lie on."""

from __future__ import annotations

import difflib
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medcam.engine.model.copies import strided_copy
from medcam.engine.model.leaves import new_leaf
from medcam.engine.model.nested import children, map_tensors
from medcam.engine.model.signals import has_channels_last, is_signal, reads_signals
from medcam.errors import InputError, image_error
from medcam.maps import ImageName


@dataclass(frozen=True, eq=False)
class InputImage:
    """An image among a model's inputs.

    Attributes:
        name: The name of its parameter, its key in a dict, or its position.
        tensor: The image, ``[batch, channels, *space]``.
    """

    name: ImageName
    tensor: Tensor

    @property
    def space(self) -> tuple[int, ...]:
        """The spatial extents."""
        return tuple(self.tensor.shape[2:])


def find_images(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], model: nn.Module, *, named: bool = False
) -> list[InputImage]:
    """Return the floating-point tensors with 2 or 3 spatial axes among the inputs.

    Dicts, lists and tuples are looked into. A tensor that is given twice is one image. Without an
    image, the tensors ``[batch, channels, time]`` are returned if the model reads 1D signals
    (`medcam.engine.model.signals`), and else images of integers, which the model scales itself.

    Args:
        args: The positional inputs of the model.
        kwargs: Its keyword inputs.
        model: The model.
        named: Whether a single image gets the name of its parameter, too, not its position.
    """
    for fits in (_is_image, partial(is_signal, model=model), _is_integer_image):
        images = _find(args, kwargs, model, fits, named)
        if images:
            return images
    return []


def _find(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    model: nn.Module,
    fits: Callable[[Tensor], bool],
    named: bool,
) -> list[InputImage]:
    """Return the tensors among the inputs that fit, with their names."""
    paths: list[tuple[tuple[ImageName, ...], Tensor]] = []
    known: set[int] = set()
    for key, value in _by_name(args, kwargs).items():
        for path, tensor in _tensors(value, (key,), fits):
            if id(tensor) not in known:
                known.add(id(tensor))
                paths.append((path, tensor))
    if args and (named or len(paths) > 1):  # a single image needs no name
        names: dict[ImageName, ImageName] = dict(enumerate(_parameter_names(model)))
        paths = [((names.get(path[0], path[0]), *path[1:]), tensor) for path, tensor in paths]
    counts = Counter(path[-1] for path, _ in paths)
    images = []
    for path, tensor in paths:
        name = path[-1]
        if counts[name] > 1:  # the same key in several dicts
            name = "".join([str(path[0]), *(f"[{key!r}]" for key in path[1:])])
        images.append(InputImage(name, tensor))
    return images


def require_images(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], model: nn.Module, *, named: bool = False
) -> list[InputImage]:
    """Return `find_images`, of which there has to be one at least.

    Raises:
        InputError: No input is an image, or an image is empty.
    """
    images = find_images(args, kwargs, model, named=named)
    if not images:
        raise image_error(no_image_message(args, kwargs, model))
    for image in images:
        if 0 in image.tensor.shape:
            raise image_error(f"The input has shape {list(image.tensor.shape)}: it is empty.")
    return images


def _parameter_names(model: nn.Module) -> list[str]:
    """Return the names of the positional parameters of a model's forward."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward without a signature, such as a built-in
        return []
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def chosen_image(images: Sequence[InputImage], image: ImageName | None) -> int | None:
    """Return the number of the image that ``image=`` names; None for all images.

    Args:
        images: The images among the inputs.
        image: The name of a parameter, a key, or the position among the images.

    Raises:
        InputError: There is no such image.
    """
    if image is None:
        return None
    names = [item.name for item in images]
    if image in names and not isinstance(image, bool):
        return names.index(image)
    if isinstance(image, int) and not isinstance(image, bool) and 0 <= image < len(images):
        return image
    listed = ", ".join(f"{number}: {name!r}" for number, name in enumerate(names))
    near = difflib.get_close_matches(str(image), [str(name) for name in names], 1)
    shown = repr(image) if isinstance(image, (int, str)) else f"a {type(image).__name__}"
    raise InputError(
        f"image={shown} is not among the inputs: give the name or the position of one of {listed}."
        + (f" Did you mean {near[0]!r}?" if near else "")
    )


def with_leaves(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    images: Sequence[Tensor],
    own: Sequence[Tensor] = (),
) -> tuple[tuple[Any, ...], dict[str, Any], list[Tensor]]:
    """Return the inputs with images attached to leaves, and the leaves.

    The user's tensors keep their ``requires_grad``. The model gets copies of the leaves, which it
    may change in place.

    Args:
        args: The positional inputs of the model.
        kwargs: Its keyword inputs.
        images: The images.
        own: The leaves if they are the caller's own tensors (`medcam.engine.own_input`).
    """
    leaves, copies = [], {}
    for image, leaf in zip(images, own or images, strict=True):
        if not leaf.requires_grad:
            leaf = new_leaf(strided_copy(leaf) if leaf.is_inference() else leaf)
        leaves.append(leaf)
        copies[id(image)] = strided_copy(leaf)
    args, kwargs = map_tensors((args, kwargs), lambda tensor: copies.get(id(tensor), tensor))
    return args, kwargs, leaves


def _is_image(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim in (4, 5)


def _is_integer_image(tensor: Tensor) -> bool:
    """Return whether a tensor is an image of integers; a label map is none, as it has no channels.

    Quantised and complex tensors are none, either.
    """
    return tensor.dtype in _INTEGERS and tensor.ndim in (4, 5) and tensor.shape[1] <= _CHANNELS


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_CHANNELS = 32  # an image of more is rather a tensor of tokens or of labels


def _tensors(
    value: Any, path: tuple[ImageName, ...], fits: Callable[[Tensor], bool]
) -> list[tuple[tuple[ImageName, ...], Tensor]]:
    """Return the tensors inside an input that fit, with the keys that lead to them."""
    if isinstance(value, Tensor):
        return [(path, value)] if fits(value) else []
    inside = []
    if isinstance(value, (Mapping, list, tuple)):
        for key, part in children(value):
            name = key if isinstance(key, (int, str)) else str(key)
            inside += _tensors(part, (*path, name), fits)
    return inside


def _by_name(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[int | str, Any]:
    """Return all inputs by their position or keyword."""
    inputs: dict[int | str, Any] = dict(enumerate(args))
    inputs.update(kwargs)
    return inputs


def no_image_message(args: tuple[Any, ...], kwargs: Mapping[str, Any], model: nn.Module) -> str:
    """Return the error message for inputs of which none is an image, with a likely remedy."""
    inputs = _by_name(args, kwargs)
    tensors = {
        name: tensor for key, value in inputs.items() for name, tensor in _named_tensors(key, value)
    }
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    remedy = ""
    integers = [
        name
        for name, tensor in tensors.items()
        if tensor.ndim in (4, 5) and not tensor.is_floating_point() and not tensor.is_complex()
    ]
    complex_names = [name for name, tensor in tensors.items() if tensor.is_complex()]
    if complex_names:
        remedy = (
            f" Input {complex_names[0]!r} holds complex numbers: give their real and imaginary "
            "parts, or magnitude and phase, as channels, and let the model put them together."
        )
    elif integers:
        remedy = (
            f" Input {integers[0]!r} is a tensor of integers, which this model does not take: "
            "convert it with .float()."
        )
    elif any(tensor.ndim in (2, 3) for tensor in floating.values()):
        remedy = " Is the batch axis missing (add it: x[None]), or the channel axis (x[:, None])?"
        if not any(isinstance(value, Tensor) for value in inputs.values()):
            remedy += (
                " A model that takes a list of images without a batch axis, such as a detector, is "
                "explained through a module that takes the batch and makes the list of it."
            )
        remedy += _signal_remedy(list(floating.values()), model)
    elif inputs and not tensors:
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


def _named_tensors(key: ImageName, value: Any) -> list[tuple[ImageName, Tensor]]:
    """Return all tensors of an input, with their names."""
    if isinstance(value, Tensor):
        return [(key, value)]
    return [
        ("".join([str(path[0]), *(f"[{part!r}]" for part in path[1:])]), tensor)
        for path, tensor in _tensors(value, (key,), lambda _: True)
    ]


def _signal_remedy(tensors: Sequence[Tensor], model: nn.Module) -> str:
    """Return what to do if an input of three axes was meant as a batch of 1D signals."""
    triples = [tensor for tensor in tensors if tensor.ndim == 3]
    if reads_signals(model) and not triples:
        return " A 1D signal is [batch, channels, time]."
    if reads_signals(model) and any(has_channels_last(tensor, model) for tensor in triples):
        return (
            " A signal has its channels before its time, [batch, channels, time]: give a model "
            "that takes it so, without a transpose before the first convolution."
        )
    if triples and not reads_signals(model):
        return (
            " 1D signals [batch, channels, time] are explained if the model has 1D convolutions "
            "(nn.Conv1d) or poolings, and no 2D or 3D ones."
        )
    return ""
