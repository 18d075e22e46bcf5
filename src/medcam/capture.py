"""Activations of named layers and their gradients, from one forward pass of the user's model.

The graph begins at the first hooked layer (Mechanism "graph from the layer on" in
docs/architecture.md): in the lean mode nothing before it requires gradients, so nothing before it
is kept for the backward pass. What the model gets back from a hook is a copy, so that an in-place
operation after the layer cannot change what was stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from medcam import layouts
from medcam._errors import NoMapError
from medcam._graph import depends_on
from medcam.attention import plain
from medcam.layouts import Layout
from medcam.lean import autocast_dtype
from medcam.outputs import describe, map_tensors


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


def as_map(tensor: Tensor, layout: Layout) -> Tensor:
    """``[batch, channels, *space]``, plain, without a graph, at least float32."""
    values = layout.grid(plain(tensor.detach()))
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
        stored = self._in_graph(tensor)
        if self._recording:
            self._calls.setdefault(name, []).append(Activation(name, stored, layout))
        return map_tensors(output, lambda part: stored.clone() if part is tensor else part)

    def _in_graph(self, tensor: Tensor) -> Tensor:
        if tensor.requires_grad:
            return tensor
        if tensor.is_inference():
            tensor = tensor.clone()
        if self.on_begin is not None and self._recording:
            self.on_begin()
        return tensor.detach().requires_grad_()

    def activations(self, scores: Tensor) -> list[Activation]:
        """One activation for each layer that ran and lies on the image.

        Of a layer that ran several times, the last call that the scores depend on.
        """
        chosen = []
        for name in self._layers:
            calls = self._calls.get(name)
            if calls is None:
                self._reasons.setdefault(name, "it did not run in this call")
            elif len(calls) == 1:
                chosen.append(calls[0])
            else:
                chosen.append(_last_used(calls, scores))
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


def _in_float16(tensors: Sequence[Tensor]) -> bool:
    """Whether a part of the backward pass may run in float16."""
    device = tensors[0].device.type
    return autocast_dtype(device) == torch.float16 or any(t.dtype == torch.float16 for t in tensors)


def gradients(
    score: Tensor, tensors: Sequence[Tensor], *, retain_graph: bool
) -> Sequence[Tensor | None]:
    """The gradient of a summed score with respect to several tensors; None where unconnected.

    The user's ``.grad`` is not touched. In float16 the backward pass is run on a scaled score,
    since a mean over a million voxels has gradients below float16's smallest number; the scale
    is taken out again in float32.

    Args:
        score: One sample's score each, ``[batch]``.
        tensors: What the gradients are taken with respect to.
        retain_graph: Whether the graph is needed again.

    Raises:
        NoMapError: Autograd cannot go back through this model.
    """
    if not tensors:
        return []
    half = _in_float16(tensors)
    try:
        if not half:
            return torch.autograd.grad(
                score.sum(), tensors, retain_graph=retain_graph, allow_unused=True
            )
        scale = 2.0**24  # scaled down where it overflows: too large costs time, too small the map
        while True:
            grads = torch.autograd.grad(
                score.sum() * scale, tensors, retain_graph=True, allow_unused=True
            )
            scaled = [None if g is None else g.float() / scale for g in grads]
            if scale <= 1 or all(g is None or bool(g.isfinite().all()) for g in scaled):
                return scaled
            scale /= 2.0**8
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise NoMapError(
            f"Autograd could not go back through the model: {error}\nIf a part of the model is "
            "checkpointed, use use_reentrant=False; if it runs under no_grad, or detaches its "
            "input, choose a layer after that part."
        ) from error
