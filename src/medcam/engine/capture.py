"""Record the activations of named layers with forward hooks, in one run of the user's model.

Without a graph to keep for the caller, the graph begins at the first hooked layer: its output
becomes a leaf, nothing before it requires gradients, and so nothing before it is saved for the
backward pass. The model continues with a copy of the recorded tensor, so an in-place operation
after the layer cannot change it.
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
from medcam.engine.model.copies import graph_node, strided_copy
from medcam.engine.model.layouts import Layout
from medcam.engine.model.leaves import new_leaf
from medcam.engine.model.nested import describe, map_tensors, without_subclass
from medcam.errors import NoMapError


@dataclass(eq=False)
class Activation:
    """The output of one layer in one of its runs.

    Attributes:
        layer: The layer's name.
        stored: The output, attached to the graph; the model continues with a copy.
        layout: How to read the output as ``[batch, channels, *space]``.
        version: The version counter of ``stored``, which a later in-place change increases.
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
        return as_evidence(self.stored, self.layout)

    def release(self) -> None:
        """Release the tensor; `values` is empty afterwards."""
        self.stored = self.stored.detach().new_empty(0)
        self.version = self.stored._version


def copy_for_model(stored: Tensor) -> Tensor:
    """Return a copy for the model, so that its in-place changes do not reach ``stored``.

    Copy-on-write where available: most outputs are never modified.
    """
    if stored.device.type in ("cpu", "cuda") and hasattr(torch, "_lazy_clone"):
        # copy-on-write fails for memory that PyTorch did not allocate, such as a NumPy array's
        with contextlib.suppress(RuntimeError):
            return torch._lazy_clone(stored)
    return strided_copy(stored)


def as_evidence(tensor: Tensor, layout: Layout) -> Tensor:
    """Return a plain tensor ``[batch, channels, *space]``, detached, at least float32."""
    values = layout.channels_first(without_subclass(tensor.detach()))
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def last_connected(activations: Sequence[Activation], scores: Tensor) -> Activation:
    """Return the last activation that the scores depend on; the last of all if there is none."""
    connected = depends_on(scores, [activation.stored for activation in activations])
    for activation, is_connected in zip(reversed(activations), reversed(connected), strict=True):
        if is_connected:
            return activation
    return activations[-1]


class Recorder:
    """Context manager that hooks layers during one call and records their outputs.

    It spans the forward *and* the backward pass: activation checkpointing runs the forward pass
    again during the backward pass and needs the same hooks. An output without autograd history
    becomes a leaf.

    Args:
        layers: The modules by name.
        batch: The batch size.
        space: The input's spatial shape.

    Attributes:
        on_graph_start: Called before an output becomes a leaf; None by default.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], *, batch: int, space: Sequence[int]
    ) -> None:
        self.on_graph_start: Callable[[], None] | None = None
        self._layers = layers
        self._batch = batch
        self._space = tuple(space)
        self._handles: list[RemovableHandle] = []
        self._recording = True
        self._thread = threading.get_ident()
        self._runs: dict[str, list[Activation]] = {}
        self._reasons: dict[str, str] = {}
        # the most recent output: the model's copy, its version counter, the recorded tensor
        self._latest: tuple[Tensor, int, Tensor] | None = None

    def __enter__(self) -> Recorder:
        for name, module in self._hooked_modules().items():
            if isinstance(module, torch.jit.ScriptModule):
                self._reasons[name] = "it is TorchScript, which runs no hooks"
                continue
            # prepended, so that the user's own hooks get the copy that the model continues with
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

    def _hooked_modules(self) -> Mapping[str, nn.Module]:
        """Return the modules to hook, by name."""
        return self._layers

    def stop(self) -> None:
        """End the recording after the forward pass; later runs of a layer are recomputations."""
        self._recording = False
        self._latest = None

    def _hook(self, name: str) -> Any:
        """Return the forward hook of a layer."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if threading.get_ident() != self._thread and self._recording:
                return None  # a call in another thread, of a module shared with this model
            tensor_and_layout = layouts.main_tensor(output, self._batch, self._space, module)
            if tensor_and_layout is None:
                self._reasons[name] = (
                    f"its output is {describe(output)}, which does not lie on the input "
                    f"{self._space}"
                )
                return None
            return self._record_output(name, module, inputs, output, *tensor_and_layout)

        return hook

    def _record_output(
        self,
        name: str,
        module: nn.Module,
        inputs: Any,
        output: Any,
        tensor: Tensor,
        layout: Layout,
    ) -> Any:
        """Record the main tensor of a layer's output.

        Args:
            name: The layer's name.
            module: The layer.
            inputs: Its positional inputs.
            output: All that it returned.
            tensor: The tensor in ``output`` that a map can be made of.
            layout: How to read ``tensor``.

        Returns:
            The output that the model continues with; None if it is unchanged.
        """
        if max(layout.space) == 1:
            self._reasons[name] = "its output is a single voxel"
            return None
        stored = self._recorded_of_last_child(module, tensor)
        copy = tensor
        if stored is None:
            stored = self._graph_node(tensor)
            copy = copy_for_model(stored)
        if self._recording:
            self._runs.setdefault(name, []).append(Activation(name, stored, layout))
            self._latest = copy, copy._version, stored
        if copy is tensor:
            return None
        return map_tensors(output, lambda part: copy if part is tensor else part)

    def _recorded_of_last_child(self, module: nn.Module, tensor: Tensor) -> Tensor | None:
        """Return what was recorded of a sequence's last child, whose output is the sequence's.

        Only for `torch.nn.Sequential`: another module may also use its child's output elsewhere,
        and then the gradients of the two differ.
        """
        if self._latest is None or type(module).forward is not nn.Sequential.forward:
            return None
        copy, version, stored = self._latest
        return stored if tensor is copy and copy._version == version else None

    def _graph_node(self, tensor: Tensor) -> Tensor:
        """Return the tensor as a graph node of its own: a view, or a leaf if it has no history.

        A module may return its input, which is also used elsewhere (a shortcut). The gradient of
        the node is that of this output alone.
        """
        if tensor.requires_grad:
            return graph_node(tensor)
        if tensor.is_inference():
            tensor = strided_copy(tensor)
        if self.on_graph_start is not None and self._recording:
            self.on_graph_start()
        return new_leaf(tensor)

    def activations(self, scores: Tensor) -> list[Activation]:
        """Return one activation for each layer that ran and lies on the image.

        If a layer ran repeatedly, keep the last run the scores depend on.
        """
        chosen = []
        for name in self._layers:
            runs = self._runs.get(name)
            if runs is None:
                self._reasons.setdefault(name, "it did not run in this call")
                continue
            if len(runs) > 1:
                runs[:] = [last_connected(runs, scores)]  # releases the other runs
            chosen.append(runs[0])
        return chosen

    def exclude(self, name: str, reason: str) -> None:
        """Record why no map is made of a layer."""
        self._reasons[name] = reason

    def reason(self, name: str) -> str | None:
        """Return why no map can be made of a layer; None if there is a map."""
        return self._reasons.get(name)
