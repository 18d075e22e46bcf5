"""Context managers that change the user's model for one call and restore it afterwards.

The change is undone after an exception, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from medcam.engine.model.copies import strided_copy
from medcam.engine.model.devices import autocast_dtype
from medcam.engine.model.nested import map_tensors, tensors
from medcam.engine.model.stored import detach_stored_tensors, stored_graphs
from medcam.engine.model.undo import Step


def keeps_graph(model: nn.Module, inputs: Any) -> bool:
    """Return whether the caller may need gradients through the model's output.

    True if gradients are enabled and a parameter or an input requires them: in training, or if
    ``no_grad`` was forgotten.
    """
    return torch.is_grad_enabled() and (
        any(parameter.requires_grad for parameter in model.parameters())
        or any(tensor.requires_grad for _, tensor in tensors(inputs))
    )


def full_precision(device: str) -> Any:
    """Return a context in which autocast is off, so that sums stay in float32."""
    autocast_is_off = autocast_dtype(device) is None
    return nullcontext() if autocast_is_off else torch.autocast(device, enabled=False)


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Return every module of a model once, itself included.

    Listed once a call, since listing takes time; the functions below take this list.
    """
    modules, stack = {model: None}, [model]
    while stack:
        for child in stack.pop()._modules.values():
            if child is not None and child not in modules:
                modules[child] = None
                stack.append(child)
    return list(modules)


@contextmanager
def frozen_parameters(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Enable gradients, but not for parameters: nothing before a hooked layer is in the graph.

    Parameters and buffers made under ``torch.inference_mode`` cannot be saved for a backward
    pass; they are replaced by copies during the call.

    Args:
        modules: All modules of the model, see `modules_of`.
    """
    no_inference = (
        torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    )
    stored = Step(partial(detach_stored_tensors, modules, stored_graphs(modules)))
    with no_inference, torch.enable_grad(), without_gradients(modules), stored:
        yield


@contextmanager
def without_gradients(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Switch off the parameters' requires_grad, and replace inference tensors by copies."""
    trainable: list[Tensor] = []
    replaced: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []
    copies: dict[int, Tensor] = {}
    for module in modules:
        by_name: dict[str, Any]
        for by_name in (module._parameters, module._buffers):
            for name, tensor in by_name.items():
                if tensor is None or is_lazy(tensor):
                    continue
                if tensor.is_inference():
                    if id(tensor) not in copies:
                        copies[id(tensor)] = _copy(tensor)
                    replaced.append((by_name, name, tensor, copies[id(tensor)]))
                elif by_name is module._parameters and tensor.requires_grad and tensor.is_leaf:
                    trainable.append(tensor)

    def restore() -> None:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for by_name, name, tensor, copy in replaced:
            by_name[name] = tensor
            if not isinstance(tensor, nn.Parameter):
                with torch.inference_mode():
                    tensor.copy_(copy)  # running statistics that the call updated

    with Step(restore):
        for parameter in trainable:
            parameter.requires_grad_(False)
        for by_name, name, _, copy in replaced:
            by_name[name] = copy
        yield


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy that can be saved for a backward pass; a parameter stays a parameter."""
    copy = strided_copy(tensor.detach())
    return nn.Parameter(copy, False) if isinstance(tensor, nn.Parameter) else copy


@contextmanager
def separate_buffers(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Give modules in training mode copies of their buffers, and restore their own afterwards.

    A backward pass through activation checkpointing runs blocks again, which would update the
    running statistics of their batch norms once more.
    """
    replaced = [
        (module._buffers, dict(module._buffers))
        for module in modules
        if module.training and module._buffers
    ]

    def restore() -> None:
        for buffers, own in replaced:
            buffers.update(own)

    with Step(restore):
        for buffers, own in replaced:
            buffers.update(
                {name: buffer if buffer is None else buffer.clone() for name, buffer in own.items()}
            )
        yield


@contextmanager
def kept_state(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Undo what a further run changes: attributes, small buffers and random numbers.

    Lists, dicts and sets get their content back. The user's own hooks run, and what they do stays.

    Args:
        modules: All modules of the model, see `modules_of`.
    """
    modules = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    kept = [
        (module, dict(vars(module)), dict(module._buffers), _contents(module)) for module in modules
    ]
    parameters = (tensor for module in modules for tensor in module._parameters.values())

    def restore() -> None:
        for module, values, buffers, contents in kept:
            now = vars(module)
            for name in [name for name in now if name not in values]:
                del now[name]
            for name, value in values.items():
                if now.get(name, kept) is not value:
                    now[name] = value
            for value, content in contents:
                _refill(value, content)
            module._buffers.update(buffers)

    forked = _forked_random_numbers(tensor for tensor in parameters if tensor is not None)
    with forked, Step(restore):
        for module in modules:
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.numel() <= _SMALL_BUFFER:
                    module._buffers[name] = buffer.clone()
        yield


def _forked_random_numbers(parameters: Iterable[Tensor]) -> Any:
    """Return a context that puts the random numbers of the parameters' devices back."""
    devices = {parameter.device for parameter in parameters}
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    return torch.random.fork_rng(cuda)


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    """Return the lists, dicts and sets that a module keeps, each with a copy of it."""
    return [
        (value, value.copy())
        for name, value in vars(module).items()
        if type(value) in (list, dict, set) and name not in _OF_MODULE
    ]


_OF_MODULE = frozenset(vars(nn.Module()))
"""The attributes that every module has."""


def _refill(value: Any, content: Any) -> None:
    """Give a list, dict or set its former content."""
    if isinstance(value, list):
        value[:] = content
    else:
        value.clear()
        value.update(content)


_SMALL_BUFFER = 2**16
"""The largest number of values of a buffer that a model may write to while it predicts."""


def eager(modules: Sequence[nn.Module]) -> Any:
    """Return a context in which compiled submodules run eagerly, since compiled code skips hooks.

    Args:
        modules: All modules of the model, see `modules_of`.
    """
    for module in modules:
        compiled = module._compiled_call_impl is not None or "_orig_mod" in module._modules
        if compiled and hasattr(torch.compiler, "set_stance"):
            return torch.compiler.set_stance("force_eager")
    return nullcontext()


@contextmanager
def cudnn(enabled: bool) -> Iterator[None]:
    """Run with cuDNN on or off (double backward of RNNs needs it off), in all threads."""
    before = torch.backends.cudnn.enabled

    def restore() -> None:
        torch.backends.cudnn.enabled = before

    if enabled or not before:
        yield
        return
    with Step(restore):
        torch.backends.cudnn.enabled = False
        yield


def detached_inputs(value: Any) -> Any:
    """Return the inputs without a graph; inference tensors are cloned."""

    def detach(tensor: Tensor) -> Tensor:
        if tensor.is_inference():
            return strided_copy(tensor)
        return tensor.detach() if tensor.requires_grad else tensor

    return map_tensors(value, detach)


def detached_output(value: Any) -> Any:
    """Return the output without a graph."""
    return map_tensors(value, lambda tensor: tensor.detach() if tensor.requires_grad else tensor)


def differs_in_training(model: nn.Module) -> bool:
    """Return whether a submodule in training mode behaves differently in eval mode."""
    return any(
        part.training
        and (isinstance(part, _DropoutNd) or next(part.buffers(recurse=False), None) is not None)
        for part in model.modules()
    )


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Run in eval mode with a forked RNG; restore both.

    Eval mode leaves the running statistics of normalisation layers unchanged. Each module's mode
    is restored by itself, as a frozen module may be in eval mode inside a network in training.
    """
    modes = [(module, module.training) for module in network.modules()]

    def restore() -> None:
        for module, training in modes:
            module.training = training

    with _forked_random_numbers(network.parameters()), Step(restore):
        network.eval()
        yield
