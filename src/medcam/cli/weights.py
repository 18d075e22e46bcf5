"""Load a model's weights from the files that training programs write."""

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
    """Load weights into a model: every entry, and no other.

    The state_dict may be nested in a checkpoint under ``state_dict``, ``model_state_dict``,
    ``network_weights`` or ``model``. Prefixes of wrappers (``module.``, ``_orig_mod.``,
    ``model.``, ``net.``) are removed if the names fit then.

    Args:
        model: The model; of wrappers, the model inside.
        path: A file of ``torch.save``, or ``.safetensors``.
        trust: Whether it may hold more than weights, which can run code when it is read.

    Raises:
        InputError: It cannot be read, or its entries are not the model's; the message lists the
            first missing and unexpected ones, and those of another shape.
        MissingPackageError: ``.safetensors`` without that package.
    """
    model = unwrap(model)
    expected = model.state_dict()
    states = list(_state_dicts(read_weights(path, trust=trust)))
    if not states:
        raise InputError(
            f"'{path}' holds no state_dict, neither at its top nor under {', '.join(_NESTED)}."
        )
    variants = [variant for state in states for variant in _variants(state, set(expected))]
    best = min(variants, key=lambda state: len(state.keys() ^ expected.keys()))
    problems = [
        _listed("missing in the file", expected.keys() - best.keys()),
        _listed("not in the model", best.keys() - expected.keys()),
        _listed("of another shape", _misshapen(best, expected)),
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
    """Return the content of a file of weights, on the CPU.

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
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        if trust or (match is None and "weights_only" not in str(error).lower()):
            raise InputError(f"'{path}' cannot be read: {_first_line(error)}") from error
        content = match[1] if match else "pickled objects"
        raise InputError(
            f"'{path}' holds more than weights ({content}), and reading that can run any code. If "
            "it is your own file, add --trust."
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
    """Yield the state_dicts in a checkpoint, the outermost first."""
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


def _variants(state: dict[str, Any], expected: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the state_dict as it is, then without prefixes; stop when the names fit."""
    for count in range(4):
        for prefixes in itertools.product(_PREFIXES, repeat=count):
            stripped = state
            for prefix in prefixes:
                if not any(name.startswith(prefix) for name in stripped):
                    break
                stripped = {name.removeprefix(prefix): v for name, v in stripped.items()}
            else:
                yield stripped
                if stripped.keys() == expected:
                    return


def _misshapen(state: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return the entries whose shape is not the model's, with both shapes."""
    return [
        f"{name} ({list(state[name].shape)}, the model's {list(expected[name].shape)})"
        for name in sorted(state.keys() & expected.keys())
        if isinstance(state[name], Tensor)
        and isinstance(expected[name], Tensor)
        and not is_lazy(expected[name])
        and state[name].shape != expected[name].shape
    ]


def _listed(kind: str, names: Any) -> str:
    """Return the number of names with the first few; empty if there are none."""
    if not names:
        return ""
    first = ", ".join(sorted(names)[:_SHOWN])
    return f"{len(names)} {kind}: {first}{', ...' if len(names) > _SHOWN else ''}"
