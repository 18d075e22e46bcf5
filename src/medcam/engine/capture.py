"""Activations of named layers and their gradients, from one forward pass of the user's model.

The graph begins at the first hooked layer (Mechanism "graph from the layer on" in
docs/architecture.md): in the lean mode nothing before it requires gradients, so nothing before it
is kept for the backward pass. What the model gets back from a hook is a copy, so that an in-place
operation after the layer cannot change what was stored.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from medcam.engine.graph import depends_on
from medcam.engine.model import layouts
from medcam.engine.model.layouts import Layout
from medcam.engine.model.nested import describe, map_tensors, without_subclass
from medcam.errors import NoMapError


@dataclass(eq=False)
class Activation:
    """What one layer put out in one of its calls.

    Attributes:
        layer: The layer's name.
        stored: The tensor, attached to the graph; not the one the model went on with.
        layout: How it lies on the image.
        version: The stored tensor's version counter, to notice a later in-place change.
    """

    layer: str
    stored: Tensor
    layout: Layout
    version: int = field(init=False)

    def __post_init__(self) -> None:
        self.version = self.stored._version

    @property
    def values(self) -> Tensor:
        """The activations ``[batch, channels, *space]``, without a graph.

        Raises:
            NoMapError: The model changed the tensor in place after the layer.
        """
        if self.stored._version != self.version:
            raise NoMapError(
                f"The output of layer {self.layer!r} was changed in place after the layer ran, so "
                "its activations are lost. Choose the layer before or after it."
            )
        return as_map(self.stored, self.layout)

    def release(self) -> None:
        """Release the tensor; `values` is empty afterwards."""
        self.stored = self.stored.detach().new_empty(0)
        self.version = self.stored._version


def copy_for_model(stored: Tensor) -> Tensor:
    """A copy for the model, so that what it changes in place does not reach what is stored.

    Where PyTorch can, values are copied when one of the two is written to, and not before: most
    layers' outputs never are.
    """
    if stored.device.type in ("cpu", "cuda") and hasattr(torch, "_lazy_clone"):
        with contextlib.suppress(RuntimeError):  # memory that is not PyTorch's own
            return torch._lazy_clone(stored)
    return stored.clone()


def as_map(tensor: Tensor, layout: Layout) -> Tensor:
    """``[batch, channels, *space]``, plain, without a graph, at least float32."""
    values = layout.grid(without_subclass(tensor.detach()))
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class Recorder:
    """Forward hooks on layers for the length of one call.

    Use it as a context manager around the forward *and* the backward pass: activation
    checkpointing runs the forward pass again during the backward pass and needs the same hooks.

    Args:
        layers: The modules by name.
        batch: The batch size.
        space: The input's spatial shape.

    Attributes:
        on_begin: Called when a layer begins the graph; None: nothing is.

    A layer's output that has no graph yet begins one.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], *, batch: int, space: Sequence[int]
    ) -> None:
        self.on_begin: Callable[[], None] | None = None
        self._layers = layers
        self._batch = batch
        self._space = tuple(space)
        self._handles: list[RemovableHandle] = []
        self._recording = True
        self._thread = threading.get_ident()
        self._calls: dict[str, list[Activation]] = {}
        self._reasons: dict[str, str] = {}
        self._last: tuple[Tensor, int, Tensor] | None = None

    def __enter__(self) -> Recorder:
        for name, module in self._watched().items():
            if isinstance(module, torch.jit.ScriptModule):
                self._reasons[name] = "it is TorchScript, which runs no hooks"
                continue
            # first, so that the user's own hooks see the tensor that the graph goes on from
            handle = module.register_forward_hook(self._hook(name), prepend=True)
            self._handles.append(handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()
        for handle in self._handles:
            handle.remove()

    def _watched(self) -> Mapping[str, nn.Module]:
        return self._layers

    def stop(self) -> None:
        """The forward pass is over; what runs from now on is a recomputation."""
        self._recording = False
        self._last = None

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if threading.get_ident() != self._thread and self._recording:
                return None  # somebody else's call of a shared module
            found = layouts.main_tensor(output, self._batch, self._space, module)
            if found is None:
                self._reasons[name] = (
                    f"its output is {describe(output)}, which does not lie on the input "
                    f"{self._space}"
                )
                return None
            return self._store(name, module, inputs, output, *found)

        return hook

    def _store(
        self,
        name: str,
        module: nn.Module,
        inputs: Any,
        output: Any,
        tensor: Tensor,
        layout: Layout,
    ) -> Any:
        if max(layout.space) == 1:
            self._reasons[name] = "its output is a single voxel"
            return None
        stored = self._stored_before(module, tensor)
        given = tensor
        if stored is None:
            stored = self._in_graph(tensor)
            given = copy_for_model(stored)
        if self._recording:
            self._calls.setdefault(name, []).append(Activation(name, stored, layout))
            self._last = given, given._version, stored
        if given is tensor:
            return None
        return map_tensors(output, lambda part: given if part is tensor else part)

    def _stored_before(self, module: nn.Module, tensor: Tensor) -> Tensor | None:
        """What was stored of the last part of a sequence, whose output is the sequence's.

        Of other modules it is not known whether what they pass on is used elsewhere, too.
        """
        if self._last is None or type(module).forward is not nn.Sequential.forward:
            return None
        given, version, stored = self._last
        return stored if tensor is given and given._version == version else None

    def _in_graph(self, tensor: Tensor) -> Tensor:
        """The tensor as a place of its own in the graph: its gradient is that of this output.

        What a module passes on may also be used elsewhere (a shortcut), which is not its output.
        """
        if tensor.requires_grad:
            return tensor.view_as(tensor)
        if tensor.is_inference():
            tensor = tensor.clone()
        if self.on_begin is not None and self._recording:
            self.on_begin()
        return tensor.detach().requires_grad_()

    def activations(self, scores: Tensor) -> list[Activation]:
        """One activation for each layer that ran and lies on the image.

        Of a layer that ran several times, the last call that the scores depend on; the others are
        let go.
        """
        chosen = []
        for name in self._layers:
            calls = self._calls.get(name)
            if calls is None:
                self._reasons.setdefault(name, "it did not run in this call")
                continue
            if len(calls) > 1:
                calls[:] = [_last_used(calls, scores)]  # the others need not be kept
            chosen.append(calls[0])
        return chosen

    def exclude(self, name: str, reason: str) -> None:
        """Notes why no map is made of a layer."""
        self._reasons[name] = reason

    def reason(self, name: str) -> str | None:
        """Why no map can be made of a layer."""
        return self._reasons.get(name)


def _last_used(calls: Sequence[Activation], scores: Tensor) -> Activation:
    used = depends_on(scores, [call.stored for call in calls])
    return next((c for c, u in zip(calls[::-1], used[::-1], strict=True) if u), calls[-1])
