"""What is changed around the user's model during a call, and put back after it.

Every change is a context manager, so that it is undone after an exception too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

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


@contextmanager
def lean(model: nn.Module) -> Iterator[None]:
    """Gradients on, but none for parameters: nothing before the first hooked layer is recorded.

    Parameters and buffers made under ``torch.inference_mode`` cannot be saved for a backward
    pass; they are replaced by copies during the call.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_without_inference_tensors(model))
        stack.enter_context(_frozen(model))
        stack.callback(_detach_kept, model)
        yield


def _detach_kept(model: nn.Module) -> None:
    """Takes the graph off tensors that the model itself kept during the call, as no_grad would."""
    for module in model.modules():
        for held in (module._buffers, vars(module)):
            for name, value in held.items():
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    held[name] = value.detach()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    trained = [p for p in model.parameters() if not is_lazy(p) and p.requires_grad and p.is_leaf]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _without_inference_tensors(model: nn.Module) -> Iterator[None]:
    replaced: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []
    copies: dict[int, Tensor] = {}
    try:
        for module in model.modules():
            held: dict[str, Any]
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is None or is_lazy(tensor) or not tensor.is_inference():
                        continue
                    if id(tensor) not in copies:
                        copy = tensor.detach().clone()
                        is_parameter = isinstance(tensor, nn.Parameter)
                        copies[id(tensor)] = nn.Parameter(copy, False) if is_parameter else copy
                    replaced.append((held, name, tensor, copies[id(tensor)]))
        for held, name, _, copy in replaced:
            held[name] = copy
        yield
    finally:
        for held, name, tensor, copy in replaced:
            held[name] = tensor
            if not isinstance(tensor, nn.Parameter):
                with torch.inference_mode():
                    tensor.copy_(copy)  # running statistics that the call moved


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Compiled submodules run eagerly during the call: compiled code skips forward hooks."""
    if any(
        module._compiled_call_impl is not None or "_orig_mod" in module._modules
        for module in model.modules()
    ) and hasattr(torch.compiler, "set_stance"):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


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
