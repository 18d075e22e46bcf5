"""Activation checkpointing of the user's blocks, for the length of one call (``memory="low"``).

A gradient with respect to the input needs a graph that spans the network. Within a block nothing
of it is kept but the block's input: the backward pass runs the block again (Chen et al., arXiv
1604.06174). Gradients and maps are the same bit for bit; the price is one more forward pass for
each backward pass.

The recomputation runs under the same modes as the forward pass (`medcam.engine.memory.lean`, `medcam.engine.guided`), so
that it keeps as little, and meets the same operations. Guided rectifiers are nodes of the graph of
the forward pass, which exists as always; only its tensors do not.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint as torch_checkpoint

from medcam.engine.memory.estimate import Kept, rehearse, size, together
from medcam.engine.model.nested import tensors
from medcam.errors import warn

_log = logging.getLogger("medcam")


@dataclass
class _Call:
    """Whether a block is running: one within it is part of it."""

    inside: bool = False


def chosen_blocks(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    modes: Callable[[], AbstractContextManager[None]],
) -> list[nn.Module]:
    """The blocks to checkpoint: those with which the least is kept at any one time.

    Kept are the input of every block, the inside of the one that is being run again, and all that
    is in no block. One large block is too much inside, a block for each layer too many inputs: the
    best size is between, and depends on the sizes of the activations. These are known from a run on
    shapes alone (`medcam.engine.memory.estimate`). A model that cannot run without data is divided by the number
    of its layers instead.

    Args:
        model: The model; it is never a block itself.
        args: The positional inputs of the call.
        kwargs: The keyword inputs of the call.
        modes: The modes that the forward pass runs under.

    Returns:
        Modules, none inside another; empty where checkpointing would save nothing. Blocks that
        must not run twice are none: batch norms in training mode would move their statistics
        twice, and hooks of the user's inside a block would be called twice.
    """
    try:
        kept = rehearse(model, args, kwargs, modes)
    except Exception as error:  # noqa: BLE001  # the user's code on tensors without data: anything
        _log.info("blocks are chosen by their number of layers, as %s: %s", type(error), error)
        kept = _by_layers(model)
    whole = together(kept[""].given, kept[""].inside)
    least, best = size(whole), list[str]()
    for most in sorted({size(module.inside) for module in kept.values()}):
        names = [name for name in _outermost(model, kept, most) if _gains(kept[name])]
        inside = together(*(kept[name].inside for name in names))
        given = together(*(kept[name].given for name in names))
        outside = {key: held for key, held in whole.items() if key not in inside}
        largest = max((size(kept[name].inside) for name in names), default=0)
        amount = size(together(given, outside)) + largest
        if amount < least:
            least, best = amount, names
    return [model.get_submodule(name) for name in best]


def _by_layers(model: nn.Module) -> dict[str, Kept]:
    """The same as from a rehearsal, if every layer kept one tensor, all of one size."""
    kept = {}
    for name, module in model.named_modules():
        leaves = [part for part in module.modules() if next(part.children(), None) is None]
        kept[name] = Kept({-id(module): 1}, {id(leaf): 1 for leaf in leaves})
    return kept


def _gains(kept: Kept) -> bool:
    return size(kept.inside) > size(kept.given)


def _outermost(model: nn.Module, kept: Mapping[str, Kept], most: int) -> Iterator[str]:
    """The outermost modules that keep at most so much inside and may run twice."""
    seen = {model}
    waiting = [*model.named_children()][::-1]
    while waiting:
        name, module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if name in kept and size(kept[name].inside) <= most and _may_run_twice(module):
            seen.update(module.modules())
            yield name
        else:
            children = [(f"{name}.{part}", child) for part, child in module.named_children()]
            waiting.extend(children[::-1])


def _may_run_twice(block: nn.Module) -> bool:
    if type(block).forward is nn.Module.forward or isinstance(block, torch.jit.ScriptModule):
        return False  # a list of modules is not run itself
    for part in block.modules():
        if part.training and next(part.buffers(recurse=False), None) is not None:
            return False
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        if part is not block and not all(_is_pytorchs(hook) for hook in hooks):
            return False
    return True


def _is_pytorchs(hook: Any) -> bool:
    """Whether a hook is one of PyTorch's own, such as weight normalisation."""
    return type(hook).__module__.startswith("torch.")


@contextmanager
def checkpointed(
    blocks: Sequence[nn.Module], modes: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """Within it, the blocks keep their inputs only. Their forwards are put back after it.

    Args:
        blocks: From `chosen_blocks`.
        modes: The modes that the forward pass runs under, to be entered in each block anew.
    """
    if not blocks:
        warn(
            "memory='low' changes nothing for this model: it has no blocks, or what is kept of "
            "them already (with ReLU and evaluated batch norm a mask) is less than their inputs."
        )
    call = _Call()
    replaced = [(vars(block), vars(block).get("forward")) for block in blocks]
    try:
        for block, (held, _) in zip(blocks, replaced, strict=True):
            held["forward"] = _checkpointing(block, block.forward, modes, call)
        yield
    finally:
        for held, before in replaced:
            if before is None:
                held.pop("forward", None)
            else:
                held["forward"] = before


def _checkpointing(
    block: nn.Module,
    forward: Callable[..., Any],
    modes: Callable[[], AbstractContextManager[None]],
    call: _Call,
) -> Callable[..., Any]:
    """A block's forward that keeps its inputs only."""

    @functools.wraps(forward)  # the block's own signature
    def run(*args: Any, **kwargs: Any) -> Any:
        given = [tensor for _, tensor in tensors((args, kwargs))]
        if call.inside or not torch.is_grad_enabled() or not _differentiable(block, given):
            return forward(*args, **kwargs)  # nothing would be kept of it

        def again(*values: Any) -> Any:
            with modes():
                named = dict(zip(kwargs, values[len(args) :], strict=True))
                return forward(*values[: len(args)], **named)

        call.inside = True
        try:
            output = torch_checkpoint.checkpoint(
                again, *args, *kwargs.values(), use_reentrant=False
            )
        finally:
            call.inside = False
        return output

    return run


def _differentiable(block: nn.Module, given: Sequence[torch.Tensor]) -> bool:
    return any(part.requires_grad for part in (*given, *block.parameters()))


def caused(error: BaseException | None) -> bool:
    """Whether a block could not be run again: it changes its input in place, or differs then."""
    while error is not None:
        if "modified by an inplace operation" in str(error):
            return True
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_name == "unpack_hook" and code.co_filename == torch_checkpoint.__file__:
                return not isinstance(error, torch.cuda.OutOfMemoryError)
            trace = trace.tb_next
        error = error.__cause__
    return False
