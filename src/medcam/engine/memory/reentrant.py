"""Re-entrant activation checkpointing of the user's blocks, in a form that maps can be made of.

``torch.utils.checkpoint.checkpoint(..., use_reentrant=True)``, for years PyTorch's default, runs a
block without a graph inside one opaque node. `torch.autograd.grad` cannot go back through that
node, and layers inside the block have no gradient. During a call of medcam the node's ``apply`` is
replaced, so it does not matter how the model imported ``checkpoint``:

- Where the output carries no graph, the block runs plainly.
- Where the caller keeps the graph (training), the block is checkpointed without re-entrance: the
  memory saved, the values and the gradients are the same. A block whose inputs need no gradient
  trains nothing under re-entrant checkpointing; here, too, its parameters get no gradients.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from medcam.engine.model.isolation import without_gradients
from medcam.engine.model.leaves import is_trained
from medcam.engine.model.undo import Step

_Apply = Callable[..., Any]
"""What stands in for ``CheckpointFunction.apply(function, preserve_rng_state, *inputs)``."""


class _Active(threading.local):
    """The replacement in this thread; None, as in other threads, is PyTorch's own."""

    apply: _Apply | None = None


_active = _Active()


@contextmanager
def transparent(modules: Sequence[nn.Module], *, keep_graph: bool) -> Iterator[None]:
    """Run re-entrantly checkpointed blocks so that gradients can be taken inside and before them.

    Args:
        modules: All modules of the model.
        keep_graph: Whether the caller keeps the graph: blocks are then still checkpointed.
    """
    with _replaced(_recomputed(modules) if keep_graph else _plainly):
        yield


def _plainly(function: Callable[..., Any], preserve_rng_state: bool, *inputs: Any) -> Any:
    """Run a block without checkpointing."""
    return function(*inputs)


def _recomputed(modules: Sequence[nn.Module]) -> _Apply:
    """Return the replacement that checkpoints a block without re-entrance.

    Args:
        modules: The modules whose parameters get no gradients where the block trains nothing.
    """
    from torch.utils.checkpoint import (
        check_backward_validity,
        checkpoint,
        set_checkpoint_early_stop,
    )

    def apply(function: Callable[..., Any], preserve_rng_state: bool, *inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return function(*inputs)
        if not any(is_trained(value) for value in inputs):
            check_backward_validity([None])  # PyTorch's warning that nothing is trained
            with without_gradients(modules):
                return function(*inputs)

        def run(*values: Any) -> Any:
            with _replaced(apply):  # the recomputation may run later, or in another thread
                return function(*values)

        with set_checkpoint_early_stop(False):  # re-entrant recomputations run to the end
            return checkpoint(
                run, *inputs, use_reentrant=False, preserve_rng_state=preserve_rng_state
            )

    return apply


class _Dispatch:
    """The attribute of PyTorch's class, for all threads: installed while it has users."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: set[object] = set()
        self._previous: Any = None
        self._ours: Any = None

    def install(self, user: object) -> None:
        """Let ``CheckpointFunction.apply`` ask this thread for a replacement."""
        cls: Any = _function()

        def apply(called: Any, *args: Any) -> Any:
            if _active.apply is not None and called is cls:
                return _active.apply(*args)
            if self._previous is not None:
                return self._previous.__get__(None, called)(*args)
            inherited: Any = super(cls, called)
            return inherited.apply(*args)

        with self._lock:
            self._users.add(user)
            if not self._is_installed(cls):
                self._previous = vars(cls).get("apply")
                self._ours = classmethod(apply)
                cls.apply = self._ours

    def remove(self, user: object) -> None:
        """Restore the attribute after the last user; a user may leave twice."""
        cls: Any = _function()
        with self._lock:
            self._users.discard(user)
            if self._users or not self._is_installed(cls):
                return
            if self._previous is None:
                del cls.apply
            else:
                cls.apply = self._previous

    def _is_installed(self, cls: Any) -> bool:
        """Return whether the class has our attribute, whatever was interrupted."""
        return self._ours is not None and vars(cls).get("apply") is self._ours


def _function() -> Any:
    """Return PyTorch's autograd function of a re-entrantly checkpointed block."""
    from torch.utils.checkpoint import CheckpointFunction  # expensive in PyTorch 2.4

    return CheckpointFunction


_dispatch = _Dispatch()


@contextmanager
def _replaced(apply: _Apply) -> Iterator[None]:
    """Replace ``CheckpointFunction.apply`` in this thread."""
    outer, user = _active.apply, object()

    def restore() -> None:
        _active.apply = outer
        _dispatch.remove(user)

    with Step(restore):
        _dispatch.install(user)
        _active.apply = apply
        yield
