"""How much each module keeps for the backward pass, from a run on shapes alone.

A copy of the model without data (PyTorch's "meta" device) runs once on inputs without data:
nothing is computed, and no hook, buffer or attribute of the user's is touched.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from medcam.engine.model.nested import map_tensors, tensors

Storages = dict[int, int]
"""The size in bytes of storages, by their number."""


@dataclass
class Kept:
    """What the runs of one module keep.

    Attributes:
        given: Its inputs that a gradient flows to.
        inside: What is kept for the backward pass inside it, and is no parameter or input of it.
    """

    given: Storages = field(default_factory=dict)
    inside: Storages = field(default_factory=dict)


def rehearse(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    modes: Callable[[], AbstractContextManager[None]],
) -> dict[str, Kept]:
    """What each module that runs keeps, by name; "" is the model.

    Args:
        model: The model.
        args: The positional inputs of the call.
        kwargs: The keyword inputs of the call.
        modes: The modes that the call runs under.

    Raises:
        Exception: Whatever the model raises on tensors without data, e.g. where its forward reads
            a value.
    """
    twin = _without_data(model)
    own = {tensor.untyped_storage()._cdata for tensor in (*twin.parameters(), *twin.buffers())}
    found: dict[str, Kept] = {}
    running: list[Kept] = []
    alive: list[Tensor] = []  # so that no number is given twice

    def size(tensor: Tensor) -> Storages:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        return {} if storage._cdata in own else {storage._cdata: storage.nbytes()}

    def keep(tensor: Tensor) -> Tensor:
        for kept in running:
            kept.inside.update(size(tensor))
        return tensor

    def begin(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, named: Any) -> None:
            kept = found.setdefault(name, Kept())
            for _, tensor in tensors((given, named)):
                if tensor.requires_grad:
                    kept.given.update(size(tensor))
            running.append(kept)

        return hook

    def end(*_: Any) -> None:
        running.pop()

    for name, module in twin.named_modules():
        module.register_forward_pre_hook(begin(name), prepend=True, with_kwargs=True)
        module.register_forward_hook(end)
    args, kwargs = map_tensors((args, dict(kwargs)), _meta_input)
    with (
        torch.random.fork_rng(devices=[]),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        modes(),
    ):
        twin(*args, **kwargs)
    for kept in found.values():
        kept.inside = {key: held for key, held in kept.inside.items() if key not in kept.given}
    return found


def _without_data(model: nn.Module) -> nn.Module:
    """A copy of the model on the "meta" device, without hooks."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        if "forward" in vars(module):  # bound to the module itself, a copy of which would run it
            raise RuntimeError("a forward was put on an instance")
        for _, tensor in tensors(
            [dict(module._parameters), dict(module._buffers), _attributes(module)]
        ):
            if not is_lazy(tensor):
                memo[id(tensor)] = _meta(tensor)
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
                 module._backward_pre_hooks)  # fmt: skip
        for held in hooks:
            memo[id(held)] = type(held)()
    return copy.deepcopy(model, memo)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """The tensors that a module holds as plain attributes."""
    return {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}


def _meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, tensor.requires_grad)
    return empty


def _meta_input(tensor: Tensor) -> Tensor:
    """An input without data, through which a gradient would flow."""
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return empty.requires_grad_().clone() if empty.is_floating_point() else empty


def size(storages: Mapping[int, int]) -> int:
    """The bytes of storages."""
    return sum(storages.values())


def together(*kept: Storages) -> Storages:
    """All of several storages, each once."""
    return dict(itertools.chain.from_iterable(storages.items() for storages in kept))
