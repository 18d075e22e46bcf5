"""Estimate of the bytes that each module saves for the backward pass, from a run on shapes alone.

A copy of the model on PyTorch's "meta" device, which holds shapes but no data, runs once. Nothing
is computed, and no hook, buffer or attribute of the user's model is touched.
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
"""The size in bytes of storages, by their id; tensors that share a storage count once."""


@dataclass
class ModuleMemory:
    """The storages that one module needs for the backward pass, over all its runs.

    Attributes:
        inputs: Its inputs that a gradient flows to.
        saved: The tensors that autograd saves inside it, without parameters and its inputs.
    """

    inputs: Storages = field(default_factory=dict)
    saved: Storages = field(default_factory=dict)


def estimate_memory(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    modes: Callable[[], AbstractContextManager[None]],
) -> dict[str, ModuleMemory]:
    """Return the memory that each module needs for the backward pass, by name; "" is the model.

    Modules that do not run are left out.

    Args:
        model: The model.
        args: The positional inputs of the call.
        kwargs: The keyword inputs of the call.
        modes: The modes that the call runs under.

    Raises:
        Exception: Any error of the model on tensors without data, e.g. where its forward reads a
            value.
    """
    twin = _without_data(model)
    parameters = {
        tensor.untyped_storage()._cdata for tensor in (*twin.parameters(), *twin.buffers())
    }
    estimates: dict[str, ModuleMemory] = {}
    running: list[ModuleMemory] = []
    alive: list[Tensor] = []  # keeps the storages alive, so that their ids are not reused

    def storage_of(tensor: Tensor) -> Storages:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        return {} if storage._cdata in parameters else {storage._cdata: storage.nbytes()}

    def pack(tensor: Tensor) -> Tensor:
        for memory in running:
            memory.saved.update(storage_of(tensor))
        return tensor

    def begin(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, keywords: Any) -> None:
            memory = estimates.setdefault(name, ModuleMemory())
            for _, tensor in tensors((inputs, keywords)):
                if tensor.requires_grad:
                    memory.inputs.update(storage_of(tensor))
            running.append(memory)

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
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        modes(),
    ):
        try:
            twin(*args, **kwargs)
        finally:
            # The saved tensors hold their graph, and it holds this function's hooks: a cycle
            # through C++, which the garbage collector does not see.
            alive.clear()
    for memory in estimates.values():
        memory.saved = difference(memory.saved, memory.inputs)
    return estimates


def _without_data(model: nn.Module) -> nn.Module:
    """Return a copy of the model on the "meta" device, without hooks.

    Raises:
        RuntimeError: A forward was set on an instance.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        # It is bound to the original module, so its copy would run the original.
        if "forward" in vars(module):
            raise RuntimeError("a forward was set on an instance")
        for _, tensor in tensors(
            [dict(module._parameters), dict(module._buffers), _attributes(module)]
        ):
            if not is_lazy(tensor):
                memo[id(tensor)] = _meta(tensor)
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
                 module._backward_pre_hooks)  # fmt: skip
        for hook_dict in hooks:
            memo[id(hook_dict)] = type(hook_dict)()
    return copy.deepcopy(model, memo)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return the tensors that a module holds as plain attributes."""
    return {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}


def _meta(tensor: Tensor) -> Tensor:
    """Return a parameter or buffer of the same shape without data."""
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, tensor.requires_grad)
    return empty


def _meta_input(tensor: Tensor) -> Tensor:
    """Return an input without data; a floating-point input is part of the graph."""
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return empty.requires_grad_().clone() if empty.is_floating_point() else empty


def total_bytes(storages: Storages) -> int:
    """Return the size of all storages in bytes."""
    return sum(storages.values())


def union(*sets: Storages) -> Storages:
    """Return the storages that are in any of several sets, each once."""
    return dict(itertools.chain.from_iterable(storages.items() for storages in sets))


def difference(storages: Storages, without: Storages) -> Storages:
    """Return the storages of the first set that are not in the second."""
    return {key: size for key, size in storages.items() if key not in without}
