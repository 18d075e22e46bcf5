"""What is changed around the user's model during a call, and put back after it.

Every change is a context manager, so that it is undone after an exception too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from medcam.lean import autocast_dtype
from medcam.outputs import map_tensors, tensors


def keeps_graph(model: nn.Module, inputs: Any) -> bool:
    """Whether the caller will want gradients through the model's output.

    That is so when gradients are enabled and something requires them: training, or a forgotten
    ``no_grad``.
    """
    return torch.is_grad_enabled() and (
        any(parameter.requires_grad for parameter in model.parameters())
        or any(tensor.requires_grad for _, tensor in tensors(inputs))
    )


def full_precision(device: str) -> Any:
    """Sums stay in float32, whatever the user's autocast says."""
    outside = autocast_dtype(device) is None
    return nullcontext() if outside else torch.autocast(device, enabled=False)


def parts(model: nn.Module) -> list[nn.Module]:
    """Every module of a model once, itself included: walked once a call, for all that follows."""
    found, stack = {model: None}, [model]
    while stack:
        for child in stack.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                stack.append(child)
    return list(found)


@contextmanager
def lean(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Gradients on, but none for parameters: nothing before the first hooked layer is recorded.

    Parameters and buffers made under ``torch.inference_mode`` cannot be saved for a backward
    pass; they are replaced by copies during the call.

    Args:
        modules: All modules of the model, as `parts` lists them.
    """
    outside = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    with outside, torch.enable_grad(), _usable(modules):
        try:
            yield
        finally:
            _detach_kept(modules)


def _detach_kept(modules: Sequence[nn.Module]) -> None:
    """Takes the graph off tensors that the model itself kept during the call, as no_grad would."""
    plain: set[type] = set()  # kinds of values that are no tensors: nearly all there are
    for module in modules:
        for held in (module._buffers, vars(module)):
            if not held or (kinds := set(map(type, held.values()))) <= plain:
                continue
            if not any(issubclass(kind, Tensor) for kind in kinds):
                plain |= kinds
                continue
            for name, value in [*held.items()]:
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    held[name] = value.detach()


@contextmanager
def _usable(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Parameters that ask for no gradient; no parameter or buffer is an inference tensor."""
    trained: list[Tensor] = []
    replaced: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []
    copies: dict[int, Tensor] = {}
    for module in modules:
        held: dict[str, Any]
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None or is_lazy(tensor):
                    continue
                if tensor.is_inference():
                    if id(tensor) not in copies:
                        copies[id(tensor)] = _copy(tensor)
                    replaced.append((held, name, tensor, copies[id(tensor)]))
                elif held is module._parameters and tensor.requires_grad and tensor.is_leaf:
                    trained.append(tensor)
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        for held, name, _, copy in replaced:
            held[name] = copy
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for held, name, tensor, copy in replaced:
            held[name] = tensor
            if not isinstance(tensor, nn.Parameter):
                with torch.inference_mode():
                    tensor.copy_(copy)  # running statistics that the call moved


def _copy(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, False) if isinstance(tensor, nn.Parameter) else copy


def eager(modules: Sequence[nn.Module]) -> Any:
    """Compiled submodules run eagerly during the call: compiled code skips forward hooks.

    Args:
        modules: All modules of the model, as `parts` lists them.
    """
    for module in modules:
        compiled = module._compiled_call_impl is not None or "_orig_mod" in module._modules
        if compiled and hasattr(torch.compiler, "set_stance"):
            return torch.compiler.set_stance("force_eager")
    return nullcontext()


def cudnn(enabled: bool) -> Any:
    """Switches cuDNN off during the call (double backward of RNNs), if asked to."""
    return nullcontext() if enabled else torch.backends.cudnn.flags(enabled=False)


def detached_inputs(value: Any) -> Any:
    """The same inputs without a graph, and usable in one (no inference tensors)."""

    def detach(tensor: Tensor) -> Tensor:
        if tensor.is_inference():
            return tensor.clone()
        return tensor.detach() if tensor.requires_grad else tensor

    return map_tensors(value, detach)


def detached_output(value: Any) -> Any:
    """The same output without a graph."""
    return map_tensors(value, lambda tensor: tensor.detach() if tensor.requires_grad else tensor)


def depends_on_mode(model: nn.Module) -> bool:
    """Whether training mode, in a part that is in it, changes what the model does."""
    return any(
        part.training
        and (isinstance(part, _DropoutNd) or next(part.buffers(recurse=False), None) is not None)
        for part in model.modules()
    )


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and random numbers that count for nothing.

    Evaluation mode keeps the running statistics of normalisation layers as they are. After it each
    module has the mode it had, also those that were frozen in a network in training.
    """
    modes = [(module, module.training) for module in network.modules()]
    devices = {parameter.device for parameter in network.parameters()}
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    with torch.random.fork_rng(cuda):
        try:
            network.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
