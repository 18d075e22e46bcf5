"""Layers of a model by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from medcam.errors import InputError, InputTypeError, unknown_name

LayerLike = str | Iterable[str] | None
"""What ``layer=`` takes: a name, several names, "full", "auto" or None, which is "auto"."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DataParallel, DistributedDataParallel and torch.compile wrappers.

    Raises:
        InputTypeError: The model is not an ``nn.Module``.
    """
    while True:
        model = without_compilation(model)
        inner = inner_model(model)
        if inner is None:
            return model
        model = inner


def inner_model(model: nn.Module) -> nn.Module | None:
    """Return the model inside DataParallel or DistributedDataParallel; None for others."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else None


def without_compilation(model: nn.Module) -> nn.Module:
    """Return the plain model inside torch.compile and `medcam.inject`; other wrappers stay.

    Raises:
        InputTypeError: The model is not an ``nn.Module``.
    """
    while True:
        if not isinstance(model, nn.Module):
            raise InputTypeError(
                f"A {type(model).__name__} is not a model: give a torch.nn.Module."
            )
        if isinstance(model, torch.jit.ScriptModule):
            return model
        plain_model = getattr(model, "_medcam_plain", None)  # only injected models have it
        inner = model._modules.get("_orig_mod") if plain_model is None else plain_model()
        if inner is None:
            return model
        model = inner


def get_layers(model: nn.Module, reverse: bool = False) -> list[str]:
    """Return the names of a model's layers, children before the module that contains them.

    Args:
        model: The model; wrappers such as DataParallel are removed first.
        reverse: Whether to begin with the last layer.

    Returns:
        The names that ``layer=`` takes, in the order in which the modules were registered, which
        is often, but not always, the order in which they run.

    Example:
        >>> get_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU())))
        ['0', '1.0', '1']
    """
    names = list(_children_first(unwrap(model), "", set()))
    return names[::-1] if reverse else names


def _children_first(module: nn.Module, prefix: str, visited: set[nn.Module]) -> Iterator[str]:
    """Yield the names of all submodules, each before its parent; a shared module once."""
    for name, child in module.named_children():
        if child not in visited:
            visited.add(child)
            yield from _children_first(child, f"{prefix}{name}.", visited)
            yield f"{prefix}{name}"


@dataclasses.dataclass(frozen=True)
class LayerChoice:
    """The layers that a call records.

    Attributes:
        modules: The layers by the names the caller used; empty when the choice is automatic.
        automatic: Whether the layer is chosen while the model runs.
        optional: Whether layers without a map are left out ("full"); otherwise they raise an error.
    """

    modules: Mapping[str, nn.Module]
    automatic: bool = False
    optional: bool = False


def find(model: nn.Module, layer: LayerLike) -> LayerChoice:
    """Resolve ``layer=``: a name, several names, "full" or "auto".

    Raises:
        UnknownNameError: A name is not in the model; the message lists the nearest names.
        InputError: There is no name.
        InputTypeError: An item is not a name.
    """
    model = unwrap(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    modules.pop("")
    if layer in (None, "auto"):
        return LayerChoice({}, automatic=True)
    if layer == "full":
        return LayerChoice({name: modules[name] for name in get_layers(model)}, optional=True)
    if isinstance(layer, (str, nn.Module)):
        layer = [layer]
    if not isinstance(layer, Iterable):
        raise InputTypeError(
            f"layer={layer!r} is not a layer's name: give a name from medcam.get_layers(model), "
            "several names, 'full' or 'auto'."
        )
    names = list(sorted(layer) if isinstance(layer, (set, frozenset)) else layer)
    if not names:
        raise InputError("layer=[] names no layer: give a name, several names, 'full' or 'auto'.")
    chosen = {}
    for name in names:
        if isinstance(name, nn.Module):
            raise InputTypeError(
                f"layer= takes names, not the {type(name).__name__} itself: look up its name in "
                "medcam.get_layers(model)."
            )
        module = modules.get(name) if isinstance(name, str) else None
        if module is None and isinstance(name, str):
            module = modules.get(name.removeprefix("module.").removeprefix("_orig_mod."))
        if module is None:
            raise unknown_name(
                "Layer", name, get_layers(model), more="List them with medcam.get_layers(model)."
            )
        chosen[name] = module
    return LayerChoice(chosen)
