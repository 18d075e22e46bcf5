"""Changes of the user's model and of PyTorch's modes that are undone, whatever ends the call.

A context manager alone does not do that: Ctrl-C raises its exception at any line, also in the
`finally` that restores, or before the exit of a context is registered. So each change is noted
*before* it is made, as a step that restores, and that may be taken twice. The call that makes the
changes (`protected`) takes the steps that are left.
"""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")
_Step = Callable[[], None]


class _Thread(threading.local):
    """The steps of the calls that run in a thread, those of the innermost call last."""

    def __init__(self) -> None:
        self.steps: list[Step] = []


_thread = _Thread()


class Step:
    """Context manager that restores at its end; or at that of the call, if it is interrupted.

    Args:
        restore: Undoes a change that is made inside the context. It is called again if it was
            interrupted, and also if the change was not made.

    Example:
        >>> modes = [True]
        >>> with Step(lambda: modes.__setitem__(0, True)):
        ...     modes[0] = False
        >>> modes
        [True]
    """

    def __init__(self, restore: _Step) -> None:
        self.restore = restore

    def __enter__(self) -> None:
        """Note the step."""
        _thread.steps.append(self)

    def __exit__(self, *error: object) -> None:
        """Restore, and forget the step; inner steps that were interrupted come first."""
        steps = _thread.steps
        while self in steps and steps[-1] is not self:
            steps[-1].restore()
            steps.pop()
        self.restore()
        if self in steps:
            steps.pop()


def protected(call: Callable[[], _Result]) -> _Result:
    """Return the result of a call; whatever ends it, all its steps are taken.

    Args:
        call: The call.
    """
    count, modes = len(_thread.steps), _Modes()
    try:
        try:
            return call()
        except KeyboardInterrupt as stop:
            # Contexts of PyTorch that were interrupted push their mode again when they are freed.
            traceback.clear_frames(stop.__traceback__)
            raise
        finally:
            _finish(count, modes)
    finally:  # if the line above is interrupted
        _finish(count, modes)


def undoing(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return a function whose calls are `protected`."""

    @functools.wraps(function)
    def wrapper(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        return protected(lambda: function(*args, **kwargs))

    return wrapper


def _finish(count: int, modes: _Modes) -> None:
    """Take the steps beyond the first ones, the last one first; go on if that is interrupted."""
    steps = _thread.steps
    try:
        while len(steps) > count:
            steps[-1].restore()
            steps.pop()
    except BaseException:
        if len(steps) > count:
            last = steps.pop()
            _finish(count, modes)  # the others
            last.restore()  # once more
        raise
    finally:
        modes.restore()


class _Modes:
    """PyTorch's modes of a thread at the beginning of a call."""

    def __init__(self) -> None:
        self._grad = torch.is_grad_enabled()
        self._functions = torch._C._len_torch_function_stack()
        self._dispatches = torch._C._len_torch_dispatch_stack()

    def restore(self) -> None:
        """Leave the modes that were entered since; switch gradients back."""
        while torch._C._len_torch_function_stack() > self._functions:
            torch._C._pop_torch_function_stack()
        while torch._C._len_torch_dispatch_stack() > self._dispatches:
            torch._C._pop_torch_dispatch_stack(None)
        if torch.is_grad_enabled() != self._grad:
            torch.set_grad_enabled(self._grad)


Hooks = Iterable[tuple[nn.Module, Callable[..., Any]]]


class ForwardHooks(Step):
    """Context manager with forward hooks on modules.

    A hook is removed by its identity, so also if registering it was interrupted.

    Args:
        hooks: The modules with their hooks.
        prepend: Whether they run before the user's own.
    """

    def __init__(self, hooks: Hooks, *, prepend: bool = False) -> None:
        super().__init__(self._remove)
        self._hooks = list(hooks)
        self._prepend = prepend

    def __enter__(self) -> None:
        """Register the hooks."""
        super().__enter__()
        for module, hook in self._hooks:
            module.register_forward_hook(hook, prepend=self._prepend)

    def _remove(self) -> None:
        """Remove the hooks, those that were registered."""
        for module, hook in self._hooks:
            registered: dict[int, Any] = module._forward_hooks
            for key in [key for key, value in registered.items() if value is hook]:
                module._forward_hooks_with_kwargs.pop(key, None)
                module._forward_hooks_always_called.pop(key, None)
                registered.pop(key, None)
