"""Record the activations of named layers with forward hooks, in one run of the user's model.

Without a graph to keep for the caller, the graph begins at the first hooked layer: its output
becomes a leaf, nothing before it requires gradients, and so nothing before it is saved for the
backward pass. The model continues with a copy of the recorded tensor, so an in-place operation
after the layer cannot change it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from medcam.engine.activation import Activation, copy_for_model, in_a_row, used
from medcam.engine.model.copies import graph_node, strided_copy
from medcam.engine.model.layouts import see_different_views
from medcam.engine.model.leaves import new_leaf
from medcam.engine.model.nested import map_tensors, tensors
from medcam.engine.model.placement.parts import Misplaced
from medcam.engine.model.placements import MainTensor, Placements
from medcam.engine.model.undo import ForwardHooks

APART = (
    "its runs saw several views or samples of the image, and cannot be put together: some are "
    "mirrored or cropped differently, or one was seen twice"
)
"""Why a layer has no map whose runs saw different views in different places."""


class Recorder:
    """Context manager that hooks layers during one call and records their outputs.

    It spans the forward *and* the backward pass: activation checkpointing runs the forward pass
    again during the backward pass and needs the same hooks. An output without autograd history
    becomes a leaf.

    Args:
        layers: The modules by name.
        images: The images among the inputs.
        placements: The places of the layers in this call.
        chosen: The number of the only image that maps lie on; None for all.

    Attributes:
        on_graph_start: Called before an output becomes a leaf; None by default.
        by_gradient: Whether runs without a gradient are passed over, see `used`.
        is_bag: Whether the first axis of the images is slices or views of one case.
        is_segmentation: Whether a segmentation is explained.
        features: For each layer on an image its channels and spatial extents.
        last_run_only: The layers that ran several times on one image, of which only the last run
            has a map.
        ran_on_parts: Those of them whose runs saw different parts of the image.
        unplaced: The layers of which a run has no map, with the reason.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        images: Sequence[Tensor],
        placements: Placements,
        chosen: int | None = None,
    ) -> None:
        self.on_graph_start: Callable[[], None] | None = None
        self.by_gradient = False
        self.is_bag = False
        self.is_segmentation = False
        self.features: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.last_run_only: list[str] = []
        self.ran_on_parts: set[str] = set()
        self.unplaced: dict[str, str] = {}
        self._layers = layers
        self._images = images
        self._placements = placements
        self._chosen = chosen
        self._hooks: ForwardHooks | None = None
        self._recording, self._is_dead = True, False
        self._thread = threading.get_ident()
        self._runs: dict[str, list[Activation]] = {}
        self._reasons: dict[str, str] = {}
        # the layer, path and shape of each main tensor, which a recomputation finds again
        self._places: set[tuple[str, str, tuple[int, ...]]] = set()
        # the most recent output: the model's copy, its version counter, the recorded tensor
        self._latest: tuple[Tensor, int, Tensor] | None = None

    def __enter__(self) -> Recorder:
        hooks = []
        for name, module in self._hooked_modules().items():
            if isinstance(module, torch.jit.ScriptModule):
                self._reasons[name] = "it is TorchScript, which runs no hooks"
                continue
            hooks.append((module, self._hook(name)))
        # prepended, so that the user's own hooks get the copy that the model continues with
        self._hooks = ForwardHooks(hooks, prepend=True)
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._is_dead = True
        self.stop()
        if self._hooks is not None:
            self._hooks.__exit__(kind, error, tb)

    def _hooked_modules(self) -> Mapping[str, nn.Module]:
        """Return the modules to hook, by name."""
        return self._layers

    def stop(self) -> None:
        """End the recording after the forward pass; later runs of a layer are recomputations."""
        self._recording = False
        self._latest = None

    def note_task(self, task: str, *, is_bag: bool) -> None:
        """Note what the target says of the layers' runs, before `activations`.

        Args:
            task: The task, as `medcam.maps.ResolvedTarget.task`.
            is_bag: Whether the first axis of the images is slices or views of one case.
        """
        self.is_bag = is_bag
        self.by_gradient, self.is_segmentation = task == "detection", task == "segmentation"

    def end(self) -> None:
        """End all that the hooks do, once the gradients are known: the model may run again."""
        self._is_dead = True

    def _hook(self, name: str) -> Any:
        """Return the forward hook of a layer."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if self._is_dead or (threading.get_ident() != self._thread and self._recording):
                return None  # a call in another thread, of a module shared with this model
            if not self._recording:
                return self._recomputed(name, module, output)
            mains = self._placements.main_tensor(name, output, self._chosen, module)
            if isinstance(mains, str):
                self._reasons[name] = mains
                if isinstance(mains, Misplaced):
                    self.unplaced[name] = mains
                return None
            layout = mains[0].layout
            self.features[name] = layout.channels, layout.space
            return self._record_output(name, module, inputs, output, mains)

        return hook

    def _recomputed(self, name: str, module: nn.Module, output: Any) -> Any:
        """Return the output of a run that is repeated for the backward pass, as the first time."""
        for path, tensor in tensors(output):
            if (name, path, tuple(tensor.shape)) in self._places:
                return self._replaced(module, output, tensor)[1]
        return None

    def _record_output(
        self,
        name: str,
        module: nn.Module,
        inputs: Any,
        output: Any,
        mains: Sequence[MainTensor],
    ) -> Any:
        """Record the main tensor of a layer's output.

        Args:
            name: The layer's name.
            module: The layer.
            inputs: Its positional inputs.
            output: All that it returned.
            mains: The tensor in ``output`` that a map can be made of, for each image on it.

        Returns:
            The output that the model continues with; None if it is unchanged.
        """
        first = mains[0]
        self._places.add((name, first.path, tuple(first.tensor.shape)))
        stored, replaced = self._replaced(module, output, first.tensor)
        self._runs.setdefault(name, []).extend(
            Activation(name, main.image, stored, main.layout) for main in mains
        )
        return replaced

    def _replaced(self, module: nn.Module, output: Any, tensor: Tensor) -> tuple[Tensor, Any]:
        """Return the tensor to record, and the output with a copy in its place; None if it stays.

        Args:
            module: The layer.
            output: All that it returned.
            tensor: The main tensor in it.
        """
        stored = self._recorded_of_last_child(module, tensor)
        copy = tensor
        if stored is None:
            stored = self._graph_node(tensor)
            copy = copy_for_model(stored)
        if self._recording:
            self._latest = copy, copy._version, stored
        if copy is tensor:
            return stored, None
        return stored, map_tensors(output, lambda part: copy if part is tensor else part)

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
        """Return for each layer one activation per image that it saw and the scores depend on.

        Runs that see a part of the image each (slices, views, samples, tiles) are one activation.
        If a layer ran repeatedly on the same part of an image, keep the last run that the scores
        depend on.
        """
        chosen = []
        for name in self._layers:
            runs = self._runs.get(name)
            if runs is None:
                self._reasons.setdefault(name, "it did not run in this call")
                continue
            if len(runs) > 1:
                runs[:] = self._of_each_image(runs, scores)  # releases the other runs
            for activation in runs:
                if reason := activation.layout.missing_samples(is_bag=self.is_bag):
                    self._reasons[name] = reason
                else:
                    chosen.append(activation)
        return chosen

    def _of_each_image(self, runs: Sequence[Activation], scores: Tensor) -> list[Activation]:
        """Return one activation for each image, of the runs of one layer."""
        by_image: dict[int, list[Activation]] = {}
        for activation in runs:
            by_image.setdefault(activation.image, []).append(activation)
        chosen: list[Activation] = []
        for of_image in by_image.values():
            connected = used(of_image, scores, by_gradient=self.by_gradient)
            if not connected:
                continue
            row = in_a_row(connected)
            if row is None and see_different_views([run.layout for run in connected]):
                self._reasons[connected[-1].layer] = APART
                return []
            if row is None:
                self.note_last_run_only(connected)
            chosen.append(connected[-1] if row is None else row)
        return chosen or [runs[-1]]

    def note_last_run_only(self, runs: Sequence[Activation]) -> None:
        """Note a layer of whose runs on the same image only the last has a map.

        A module without weights (an activation) often serves several places of a network: there
        the last run is what the name means, unless others are like it.
        """
        last = runs[-1]
        has_weights = any(True for _ in self._hooked_modules()[last.layer].parameters())
        if sum(has_weights or run.evidence_shape == last.evidence_shape for run in runs) > 1:
            self.last_run_only.append(last.layer)
            if len({run.layout.grid.seen for run in runs}) > 1:
                self.ran_on_parts.add(last.layer)

    def exclude(self, name: str, reason: str) -> None:
        """Record why no map is made of a layer."""
        self._reasons[name] = reason

    def reason(self, name: str) -> str | None:
        """Return why no map can be made of a layer; None if there is a map."""
        return self._reasons.get(name)
