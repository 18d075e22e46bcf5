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

from medcam.engine.model.layers import unwrap
from medcam.engine.model.state_dicts import differences
from medcam.errors import InputError, MissingPackageError, foreign_errors, reason_of, warn
from medcam.files.paths import is_file, is_folder
from medcam.files.torch_files import load_torch

_NESTED = ("state_dict", "model_state_dict", "network_weights", "model", "net", "network")
_AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_LOSSES = ("criterion.", "loss.", "loss_fn.", "loss_function.")
_MAX_PATH = 300  # letters in a message


def load_weights(model: nn.Module, path: Path, *, trust: bool = False) -> None:
    """Load weights into a model: every entry, and no other.

    The state_dict may be nested in a checkpoint under ``state_dict``, ``model_state_dict``,
    ``network_weights``, ``model``, ``net``, ``network`` or a name of averaged weights (``ema``).
    Prefixes of wrappers (``module.``, ``_orig_mod.``, ``model.``, ``net.``) are removed if the
    names fit then. Entries of a loss (``criterion.``) are left out, with a warning.

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
    states = dict(_state_dicts(read_weights(path, trust=trust)))
    if not states:
        raise InputError(
            f"'{path}' holds no state_dict, neither at its top nor under {', '.join(_NESTED)}."
        )
    nearest = {place: _nearest(state, expected) for place, state in states.items()}
    place, best = min(nearest.items(), key=lambda item: len(item[1].keys() ^ expected.keys()))
    best = _without_loss(best, expected, path)
    problems = differences(best, expected)
    if problems:
        raise InputError(
            f"The weights of '{path}' are not those of this model: {problems}. Is it the same "
            "architecture, made with the same arguments (--arg)?"
        )
    _warn_of_others(path, place, best, nearest)
    with foreign_errors(f"The weights of '{path}' do not fit this model"):
        model.load_state_dict(best)


def read_weights(path: Path, *, trust: bool = False) -> Any:
    """Return the content of a file of weights, on the CPU.

    Raises:
        InputError: No such file; damaged; or it holds more than weights and is not trusted.
        MissingPackageError: ``.safetensors`` without that package.
    """
    if is_folder(path):
        raise InputError(f"The weights '{path}' are a folder: give a file.")
    if not is_file(path):
        raise InputError(f"The weights '{str(path)[:_MAX_PATH]}' do not exist.")
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    try:
        return load_torch(path, f"'{path}' cannot be read as weights", trust=trust)
    except InputError as failure:
        error = failure.__cause__
        if not isinstance(error, pickle.UnpicklingError):
            raise
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        if trust or (match is None and "weights_only" not in str(error).lower()):
            raise InputError(f"'{path}' cannot be read: {reason_of(error)}") from error
        content = match[1] if match else "pickled objects"
        raise InputError(
            f"'{path}' holds more than weights ({content}), and reading that can run any code. If "
            "it is your own file, add --trust."
        ) from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingPackageError(
            "This needs 'safetensors', which is not installed: run  pip install safetensors"
        ) from error
    with foreign_errors(f"'{path}' cannot be read as safetensors"):
        state: dict[str, Tensor] = load_file(path)
    return state


def _state_dicts(
    content: object, place: str = "", depth: int = 2
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the state_dicts in a checkpoint with the keys they lie under, the outermost first."""
    if isinstance(content, nn.Module):
        yield place, dict(content.state_dict())
        return
    if not isinstance(content, Mapping):
        return
    if any(isinstance(value, Tensor) for value in content.values()):
        yield place, {str(name): value for name, value in content.items()}
    if depth:
        for key in (*_NESTED, *_AVERAGED):
            inside = f"{place}.{key}" if place else key
            yield from _state_dicts(content.get(key), inside, depth - 1)


def _nearest(state: dict[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state_dict without the prefixes of wrappers, as far as the names fit then."""
    variants = _variants(state, set(expected))
    return min(variants, key=lambda variant: len(variant.keys() ^ expected.keys()))


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


def _without_loss(state: dict[str, Any], expected: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the state_dict without the entries of a loss that was trained beside the model."""
    of_loss = [name for name in state if name.startswith(_LOSSES) and name not in expected]
    if of_loss:
        warn(f"'{path.name}': {', '.join(of_loss[:4])} belong to a loss and were left out.")
    return {name: value for name, value in state.items() if name not in of_loss}


def _warn_of_others(
    path: Path, place: str, best: Mapping[str, Any], nearest: Mapping[str, Mapping[str, Any]]
) -> None:
    """Warn if another state_dict of the file would fit as well, with other values."""
    others = [
        other
        for other, state in nearest.items()
        if other != place
        and not differences(state, best)
        and any(not torch.equal(state[k], v) for k, v in best.items() if isinstance(v, Tensor))
    ]
    if others:
        taken = f"'{place}'" if place else "its top"
        warn(
            f"'{path.name}' holds several sets of weights that fit: {taken} was taken, not "
            f"{', '.join(map(repr, others))}. If another is meant, save it alone."
        )
