"""Activation checkpointing of the user's blocks during one call (``memory="low"``).

A gradient with respect to the input needs a graph that spans the network. Of a checkpointed block
only the input is saved; the backward pass recomputes the block (Chen et al., arXiv 1604.06174).
Gradients and maps are the same bit for bit; the cost is one more forward pass for each backward
pass.

The recomputation runs under the same modes as the forward pass (`medcam.engine.memory.lean`,
`medcam.engine.guided`): it saves as little and calls the same operations. Guided rectifiers are
nodes of the forward pass's graph, which exists as usual; only its saved tensors do not.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medcam.engine.memory.estimate import (
    ModuleMemory,
    difference,
    estimate_memory,
    total_bytes,
    union,
)
from medcam.engine.model.nested import tensors
from medcam.engine.model.undo import Step
from medcam.errors import chain_of, is_out_of_memory, warn

_log = logging.getLogger("medcam")

_CHECKPOINT_FILE = str(Path("torch", "utils", "checkpoint.py"))


@dataclass
class _Nesting:
    """Set while a block runs, so that nested blocks are not checkpointed again."""

    inside_block: bool = False


def chosen_blocks(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    modes: Callable[[], AbstractContextManager[None]],
) -> list[nn.Module]:
    """Return the blocks to checkpoint: those with which the peak memory is smallest.

    Memory holds every block's input, the block being recomputed, and everything outside blocks.
    With large blocks the recomputed one is large; with small blocks there are many inputs. The best
    size lies in between and depends on the sizes of the activations, which
    `medcam.engine.memory.estimate` finds from a run on shapes alone. A model that cannot run
    without data is divided by its number of layers instead.

    Args:
        model: The model; it is never a block itself.
        args: The positional inputs of the call.
        kwargs: The keyword inputs of the call.
        modes: The modes that the forward pass runs under.

    Returns:
        Modules, none inside another; empty where checkpointing would save nothing. Modules that
        must not run twice are left out: batch norms in training mode would update their statistics
        twice, and the user's hooks inside a block would be called twice.
    """
    try:
        estimates = estimate_memory(model, args, kwargs, modes)
    except Exception as error:  # noqa: BLE001  # the user's code without data may raise anything
        _log.info(
            "memory='low' divides the model by its number of layers, because it cannot run "
            "without data (%s: %s)",
            type(error).__name__,
            error,
        )
        estimates = _estimates_by_layers(model)
    whole = union(estimates[""].inputs, estimates[""].saved)
    smallest_peak, best = total_bytes(whole), list[str]()
    for limit in sorted({total_bytes(memory.saved) for memory in estimates.values()}):
        names = [
            name for name in _outermost(model, estimates, limit) if _saves_memory(estimates[name])
        ]
        inside = union(*(estimates[name].saved for name in names))
        inputs = union(*(estimates[name].inputs for name in names))
        outside = difference(whole, inside)
        recomputed = max((total_bytes(estimates[name].saved) for name in names), default=0)
        peak = total_bytes(union(inputs, outside)) + recomputed
        if peak < smallest_peak:
            smallest_peak, best = peak, names
    return [model.get_submodule(name) for name in best]


def _estimates_by_layers(model: nn.Module) -> dict[str, ModuleMemory]:
    """Return the estimates as if every layer saved one tensor, all of one size."""
    estimates = {}
    for name, module in model.named_modules():
        layers = [part for part in module.modules() if next(part.children(), None) is None]
        estimates[name] = ModuleMemory({-id(module): 1}, {id(layer): 1 for layer in layers})
    return estimates


def _saves_memory(memory: ModuleMemory) -> bool:
    """Return whether a module's inputs are smaller than what is saved inside it."""
    return total_bytes(memory.saved) > total_bytes(memory.inputs)


def _outermost(
    model: nn.Module, estimates: Mapping[str, ModuleMemory], limit: int
) -> Iterator[str]:
    """Yield the outermost modules that save at most ``limit`` bytes and may run twice."""
    visited = {model}
    stack = [*model.named_children()][::-1]
    while stack:
        name, module = stack.pop()
        if module in visited:
            continue
        visited.add(module)
        is_small = name in estimates and total_bytes(estimates[name].saved) <= limit
        if is_small and _may_run_twice(module):
            visited.update(module.modules())
            yield name
        else:
            children = [(f"{name}.{part}", child) for part, child in module.named_children()]
            stack.extend(children[::-1])


def _may_run_twice(block: nn.Module) -> bool:
    """Return whether running a module twice has no side effect."""
    if type(block).forward is nn.Module.forward or isinstance(block, torch.jit.ScriptModule):
        return False  # a ModuleList has no forward
    for part in block.modules():
        if part.training and next(part.buffers(recurse=False), None) is not None:
            return False
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        if part is not block and not all(_is_pytorchs(hook) for hook in hooks):
            return False
    return True


def _is_pytorchs(hook: Any) -> bool:
    """Return whether a hook is one of PyTorch's own, such as weight normalisation."""
    return type(hook).__module__.startswith("torch.")


@contextmanager
def checkpointed(
    blocks: Sequence[nn.Module], modes: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """Save only the blocks' inputs within the context; restore their forwards afterwards.

    Args:
        blocks: From `chosen_blocks`.
        modes: The modes that the forward pass runs under; entered again for each recomputation.
    """
    if not blocks:
        warn(
            "memory='low' changes nothing for this model: it has no blocks, or the tensors saved "
            "in them are already smaller than their inputs (ReLU and batch norm in evaluation mode "
            "save a mask). Use memory='normal'."
        )
    nesting = _Nesting()
    replaced = [(vars(block), vars(block).get("forward")) for block in blocks]

    def restore() -> None:
        for attributes, forward in replaced:
            if forward is None:
                attributes.pop("forward", None)
            else:
                attributes["forward"] = forward

    with Step(restore):
        for block, (attributes, _) in zip(blocks, replaced, strict=True):
            attributes["forward"] = _checkpointing(block, block.forward, modes, nesting)
        yield


def _checkpointing(
    block: nn.Module,
    forward: Callable[..., Any],
    modes: Callable[[], AbstractContextManager[None]],
    nesting: _Nesting,
) -> Callable[..., Any]:
    """Return a block's forward that saves only its inputs."""
    from torch.utils.checkpoint import checkpoint  # in PyTorch 2.4 its import is expensive

    @functools.wraps(forward)  # keeps the block's own signature
    def run(*args: Any, **kwargs: Any) -> Any:
        inputs = [tensor for _, tensor in tensors((args, kwargs))]
        if nesting.inside_block or not torch.is_grad_enabled() or not _requires_grad(block, inputs):
            return forward(*args, **kwargs)

        def recompute(*values: Any) -> Any:
            with modes():
                keywords = dict(zip(kwargs, values[len(args) :], strict=True))
                return forward(*values[: len(args)], **keywords)

        nesting.inside_block = True
        try:
            output = checkpoint(recompute, *args, *kwargs.values(), use_reentrant=False)
        finally:
            nesting.inside_block = False
        return output

    return run


def _requires_grad(block: nn.Module, inputs: Sequence[torch.Tensor]) -> bool:
    """Return whether autograd would record the block."""
    return any(part.requires_grad for part in (*inputs, *block.parameters()))


def caused(error: BaseException | None) -> bool:
    """Return whether recomputing a block caused this error.

    That is so if a block modifies its input in-place, or runs differently the second time.
    """
    if is_out_of_memory(error):
        return False
    for link in chain_of(error):
        if "modified by an inplace operation" in str(link):
            return True
        trace = link.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_name == "unpack_hook" and code.co_filename.endswith(_CHECKPOINT_FILE):
                return True
            trace = trace.tb_next
    return False
