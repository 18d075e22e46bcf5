"""Weights of a model from the files that training programs write."""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from medcam.engine.model.layers import unwrap
from medcam.errors import InputError, MissingPackageError

_NESTED = ("state_dict", "model_state_dict", "network_weights", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_SHOWN = 4  # names of each kind in an error


def load_weights(model: nn.Module, path: Path, *, trust: bool = False) -> None:
    """Loads weights into a model: every entry, and no other.

    The state_dict may lie in a checkpoint under ``state_dict``, ``model_state_dict``,
    ``network_weights`` or ``model``. Prefixes that wrappers put before the names (``module.``,
    ``_orig_mod.``, ``model.``, ``net.``) are taken off where the names fit then.

    Args:
        model: The model; of wrappers, the model inside.
        path: A file of ``torch.save``, or ``.safetensors``.
        trust: Whether it may hold more than weights, which can run code as it is read.

    Raises:
        InputError: It cannot be read, or its entries are not the model's: the message has the
            first few missing and unexpected ones, and those of another shape.
        MissingPackageError: ``.safetensors`` without that package.
    """
    model = unwrap(model)
    wanted = model.state_dict()
    found = list(_state_dicts(read_weights(path, trust=trust)))
    if not found:
        raise InputError(
            f"'{path}' holds no state_dict, neither at its top nor under {', '.join(_NESTED)}."
        )
    variants = [variant for state in found for variant in _variants(state, set(wanted))]
    best = min(variants, key=lambda state: len(state.keys() ^ wanted.keys()))
    problems = [
        _listed("missing in the file", wanted.keys() - best.keys()),
        _listed("not in the model", best.keys() - wanted.keys()),
        _listed("of another shape", _misshapen(best, wanted)),
    ]
    if any(problems):
        raise InputError(
            f"The weights of '{path}' are not those of this model: "
            f"{'; '.join(problem for problem in problems if problem)}. Is it the same "
            "architecture, made with the same arguments (--arg)?"
        )
    try:
        model.load_state_dict(best)
    except RuntimeError as error:
        raise InputError(f"The weights of '{path}' do not fit this model: {error}") from error


def read_weights(path: Path, *, trust: bool = False) -> Any:
    """Gives what a file of weights holds, on the CPU.

    Raises:
        InputError: No such file; damaged; or it holds more than weights and is not trusted.
        MissingPackageError: ``.safetensors`` without that package.
    """
    if not path.is_file():
        raise InputError(f"The weights '{path}' do not exist.")
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if trust or (found is None and "weights_only" not in str(error).lower()):
            raise InputError(f"'{path}' cannot be read: {_first_line(error)}") from error
        what = found[1] if found else "pickled objects"
        raise InputError(
            f"'{path}' holds more than weights ({what}), and reading that can run any code. If it "
            "is your own file, add --trust."
        ) from error
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        ImportError,
        AttributeError,
    ) as e:
        raise InputError(f"'{path}' cannot be read as weights: {_first_line(e)}") from e


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingPackageError(
            "This needs 'safetensors', which is not installed: run  pip install safetensors"
        ) from error
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"'{path}' cannot be read as safetensors: {error}") from error
    return state


def _state_dicts(content: object, depth: int = 2) -> Iterator[dict[str, Any]]:
    """The state_dicts in a checkpoint, the outermost first."""
    if isinstance(content, nn.Module):
        yield dict(content.state_dict())
        return
    if not isinstance(content, Mapping):
        return
    if any(isinstance(value, Tensor) for value in content.values()):
        yield {str(name): value for name, value in content.items()}
    if depth:
        for key in _NESTED:
            yield from _state_dicts(content.get(key), depth - 1)


def _variants(state: dict[str, Any], wanted: set[str]) -> Iterator[dict[str, Any]]:
    """The state_dict as it is, and with prefixes taken off; ends where the names fit."""
    for count in range(4):
        for prefixes in itertools.product(_PREFIXES, repeat=count):
            stripped = state
            for prefix in prefixes:
                if not any(name.startswith(prefix) for name in stripped):
                    break
                stripped = {name.removeprefix(prefix): v for name, v in stripped.items()}
            else:
                yield stripped
                if stripped.keys() == wanted:
                    return


def _misshapen(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The entries of another shape than the model's, with both."""
    return [
        f"{name} ({list(state[name].shape)}, the model's {list(wanted[name].shape)})"
        for name in sorted(state.keys() & wanted.keys())
        if isinstance(state[name], Tensor)
        and isinstance(wanted[name], Tensor)
        and not is_lazy(wanted[name])
        and state[name].shape != wanted[name].shape
    ]


def _listed(what: str, names: Any) -> str:
    """A few names, and how many there are."""
    if not names:
        return ""
    first = ", ".join(sorted(names)[:_SHOWN])
    return f"{len(names)} {what}: {first}{', ...' if len(names) > _SHOWN else ''}"
