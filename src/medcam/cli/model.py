"""The user's model on the command line: made by their own code, with their own weights."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medcam.errors import InputError, InputTypeError, unknown_name

if TYPE_CHECKING:
    from torch import nn

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODULE:FACTORY",
        help="What makes the model: package.module:factory or path/to/file.py:factory, a function, "
        "a class or a model; the current folder is importable. With --trust also a file of a whole "
        "saved model, path/to/model.pt.",
    ),
]
ArgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arg",
        metavar="NAME=VALUE",
        help="A keyword argument of the factory, read as JSON; what is no JSON is text. May be "
        "given several times.",
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

_WHOLE = (".pt", ".pth", ".pkl", ".ckpt")


def load_model(
    spec: str,
    *,
    weights: Path | None = None,
    trust: bool = False,
    args: Sequence[str] = (),
) -> nn.Module:
    """Gives the model that the options describe, in evaluation mode, on the CPU.

    Args:
        spec: ``package.module:factory``, ``file.py:factory``, or the file of a whole pickled model.
            The current folder, and that of the file, become importable for the whole process, as
            for a script.
        weights: Its weights, see :func:`medcam.cli.weights.load_weights`.
        trust: Whether files are unpickled that can run code.
        args: ``name=value`` for the factory.

    Raises:
        InputError: Anything that does not lead to a model with all its weights.
        InputTypeError: The factory gives no ``nn.Module``.
        MissingPackageError: ``.safetensors`` without that package.
    """
    from torch import nn

    from medcam.cli.weights import load_weights, read_weights

    keywords = keyword_arguments(args)
    if ":" not in spec and spec.lower().endswith(_WHOLE):
        if keywords:
            raise InputError("--arg is for a factory: a saved model takes no arguments.")
        _importable(Path.cwd())  # the code of its classes
        made = read_weights(Path(spec), trust=trust)
    else:
        made = _made(find_object(spec), spec, keywords)
    if not isinstance(made, nn.Module):
        raise InputTypeError(
            f"--model {spec} gives {type(made).__name__}, not a torch.nn.Module"
            + (": a state_dict goes to --weights." if isinstance(made, Mapping) else ".")
        )
    if weights is not None:
        load_weights(made, weights, trust=trust)
    return made.eval()


def brings_weights(spec: str) -> bool:
    """Whether what ``--model`` names is a model with weights, and not what makes a new one."""
    from torch import nn

    return ":" not in spec or isinstance(find_object(spec), nn.Module)


def keyword_arguments(args: Sequence[str]) -> dict[str, Any]:
    """Reads ``name=value`` pairs, the values as JSON.

    Raises:
        InputError: No pair, a name twice, or a value that begins as JSON and is none.

    Example:
        >>> keyword_arguments(["channels=[8, 16]", "norm=batch", "bias=false"])
        {'channels': [8, 16], 'norm': 'batch', 'bias': False}
    """
    found: dict[str, Any] = {}
    for arg in args:
        name, equals, text = arg.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--arg {arg!r} is not NAME=VALUE, e.g. --arg out_channels=2.")
        if name in found:
            raise InputError(f"--arg {name} is given twice.")
        found[name] = _value(name, text)
    return found


def _value(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        if text[:1] in tuple('[{"'):
            raise InputError(f"--arg {name}={text} is not JSON: {error}.") from error
        return text


def find_object(spec: str, option: str = "--model") -> Any:
    """What ``package.module:name`` or ``path/to/file.py:name`` names.

    Args:
        spec: The name.
        option: The option that it was given with, for messages.

    Raises:
        InputError: There is no such module, file or name.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise InputError(
            f"{option} {spec!r} is not MODULE:FACTORY: write package.module:factory or "
            "path/to/file.py:factory."
        )
    module = _from_file(Path(where)) if where.endswith(".py") else _from_name(where)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [known for known in vars(found) if not known.startswith("_")]
            raise unknown_name("Factory", part, public, more=f"It is looked for in {where!r}.")
        found = getattr(found, part)
    return found


def _from_name(name: str) -> ModuleType:
    _importable(Path.cwd())
    try:
        return importlib.import_module(name)
    except Exception as error:  # their code may raise anything
        raise InputError(
            f"The module {name!r} cannot be imported: {type(error).__name__}: {error}. It is "
            f"looked for in '{Path.cwd()}' and among the installed packages."
        ) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"The file '{path}' of --model does not exist.")
    _importable(path.resolve().parent)
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known
    name = path.stem if known is None else f"{path.stem}_of_model"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"'{path}' is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # their code may raise anything
        del sys.modules[name]
        raise InputError(
            f"The file '{path}' cannot be run: {type(error).__name__}: {error}."
        ) from error
    return module


def _importable(folder: Path) -> None:
    """As for a script: for good, since a model may import something when it runs."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _made(factory: Any, spec: str, keywords: dict[str, Any]) -> Any:
    """The model: what a factory gives, or what is one already."""
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
    except Exception as error:  # their code may raise anything
        raise InputError(
            f"The factory {spec} failed: {type(error).__name__}: {error}. Its arguments are given "
            "as --arg name=value."
        ) from error
