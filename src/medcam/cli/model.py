"""The user's model: made by the user's own code, with the user's own weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medcam.cli.own_code import called_exit, find_object, make_importable
from medcam.errors import InputError, InputTypeError, foreign_errors

if TYPE_CHECKING:
    from torch import nn

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODULE:FACTORY",
        help="The model: package.module:factory or path/to/file.py:factory, a function, a class or "
        "a model; the current folder is importable. With --trust also the file of a whole saved "
        "model, path/to/model.pt. An ONNX file, path/to/model.onnx, takes the methods occlusion "
        "and rise.",
    ),
]
ArgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arg",
        metavar="NAME=VALUE",
        help="A keyword argument of the factory, read as JSON, else as text. May be repeated.",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        "-w",
        help="The weights: a state_dict of torch.save, also inside a checkpoint, or .safetensors.",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Read files that hold more than weights. Such files can run any code: only for files "
        "of your own.",
    ),
]

SelectOption = Annotated[
    str | None,
    typer.Option("--select", help="Which part of the model's output: an index or a key."),
]
"""``--select``."""

DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, ...; default: the GPU, if any.")
]
"""``--device``."""

_WHOLE = (".pt", ".pth", ".pkl", ".ckpt")
_ONNX = ".onnx"


def load_model(
    spec: str,
    *,
    weights: Path | None = None,
    trust: bool = False,
    args: Sequence[str] = (),
) -> nn.Module:
    """Return the model that the options describe, in evaluation mode, on the CPU.

    Args:
        spec: ``package.module:factory``, ``file.py:factory`` (see
            `medcam.cli.own_code.find_object`), the file of a whole pickled model, or an ONNX file.
        weights: Its weights, see `medcam.cli.weights.load_weights`.
        trust: Whether files are unpickled that can run code.
        args: ``name=value`` for the factory.

    Raises:
        InputError: The options do not lead to a model with all its weights.
        InputTypeError: The factory returns no ``nn.Module``.
        MissingPackageError: ``.safetensors`` or ``.onnx`` without their packages.
    """
    from torch import nn

    from medcam.cli.weights import load_weights, read_weights

    keywords = keyword_arguments(args)
    if is_data(spec):
        if keywords or weights is not None:
            raise InputError(f"--model {spec} holds its weights: leave --arg and --weights out.")
        from medcam.frameworks import onnx

        loaded: Any = onnx.load(spec)
    elif ":" not in spec and spec.lower().endswith(_WHOLE):
        if keywords:
            raise InputError("--arg is for a factory: a saved model takes no arguments.")
        make_importable(Path.cwd())  # the code of its classes
        loaded = read_weights(Path(spec), trust=trust)
    else:
        loaded = _build(find_object(spec), spec, keywords)
    if not isinstance(loaded, nn.Module):
        raise InputTypeError(
            f"--model {spec} gives {type(loaded).__name__}, not a torch.nn.Module"
            + (": a state_dict goes to --weights." if isinstance(loaded, Mapping) else ".")
        )
    if weights is not None:
        load_weights(loaded, weights, trust=trust)
    with foreign_errors(f"--model {spec}: its eval() failed"):
        evaluated: nn.Module = loaded.eval()
    return evaluated


def is_data(spec: str) -> bool:
    """Return whether ``--model`` names a file that is read as data: no code of it runs."""
    return ":" not in spec and spec.lower().endswith(_ONNX)


def has_weights(spec: str) -> bool:
    """Return whether ``--model`` names a model with weights, not a factory of a new one."""
    from torch import nn

    return ":" not in spec or isinstance(find_object(spec), nn.Module)


def keyword_arguments(args: Sequence[str]) -> dict[str, Any]:
    """Return ``name=value`` pairs as a dict, the values parsed as JSON.

    Raises:
        InputError: Not a pair, a name twice, or a value that begins like JSON and is invalid.

    Example:
        >>> keyword_arguments(["channels=[8, 16]", "norm=batch", "bias=false"])
        {'channels': [8, 16], 'norm': 'batch', 'bias': False}
    """
    keywords: dict[str, Any] = {}
    for arg in args:
        name, equals, text = arg.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--arg {arg!r} is not NAME=VALUE, e.g. --arg out_channels=2.")
        if name in keywords:
            raise InputError(f"--arg {name} is given twice.")
        keywords[name] = _value(name, text)
    return keywords


def _value(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        if text[:1] in tuple('[{"'):
            raise InputError(f"--arg {name}={text} is not JSON: {error}.") from error
        return text


def _build(factory: Any, spec: str, keywords: dict[str, Any]) -> Any:
    """Return the model that a factory makes; a model is returned as it is."""
    from torch import nn

    if isinstance(factory, nn.Module):
        if keywords:
            raise InputError(f"--arg is for a factory: {spec} is a model already.")
        return factory
    if not callable(factory):
        raise InputTypeError(
            f"--model {spec} is {type(factory).__name__}: a function, a class or a model is needed."
        )
    try:
        return factory(**keywords)
    except SystemExit as error:
        raise InputError(f"The factory {spec} failed: {called_exit(error)}") from error
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"The factory {spec} failed: {type(error).__name__}: {error}. Its arguments are given "
            "as --arg name=value."
        ) from error
