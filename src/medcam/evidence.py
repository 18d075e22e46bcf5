"""What one run of the model yields: activations, gradients and guided gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medcam import _state, guided
from medcam._findings import Findings
from medcam.attention import plain
from medcam.auto_layer import AutoRecorder
from medcam.backward import can_pass, gradients, in_passing
from medcam.capture import Activation, Recorder, as_map
from medcam.errors import NoMapError
from medcam.layers import LayerChoice, LayerLike
from medcam.methods import Method
from medcam.request import Request


def recorder_for(
    request: Request,
    model: nn.Module,
    choice: LayerChoice,
    batch: int,
    space: tuple[int, ...],
    *,
    restart: bool,
) -> Recorder:
    """The hooks that a request needs."""
    if not any(method.of_layer for method in request.methods):
        return Recorder({}, batch=batch, space=space)
    if choice.automatic:
        # A graph from the input on has to stay whole.
        from_input = any(method.of_input for method in request.methods)
        return AutoRecorder(model, batch=batch, space=space, restart=restart and not from_input)
    return Recorder(choice.modules, batch=batch, space=space)


@dataclass(eq=False)
class Evidence:
    """What one run yielded.

    Attributes:
        layers: The layers that there are maps of.
        activations: By layer.
        gradients: By target, then by layer.
        inputs: The main input.
        input_gradients: By target.
        guided_gradients: By target.
        maps: By target, layer and method, what was made while the backward pass was there. Then
            there are no activations and gradients any more.
        weightless: By layer, the samples of which a map is zero since the gradients of each of the
            layer's channels cancel.
    """

    layers: list[str] = field(default_factory=list)
    activations: dict[str, Tensor] = field(default_factory=dict)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    inputs: Tensor | None = None
    input_gradients: list[Tensor] = field(default_factory=list)
    guided_gradients: list[Tensor] = field(default_factory=list)
    maps: list[dict[str, dict[str, Tensor]]] = field(default_factory=list)
    weightless: dict[str, Tensor] = field(default_factory=dict)

    def map(self, method: Method, target: int, layer: str | None) -> Tensor:
        """A method's map."""
        if layer is not None and self.maps:
            return self.maps[target][layer][method.name]
        return self.made(method, layer, self._known(target, layer))

    def made(self, method: Method, layer: str | None, known: dict[str, Any]) -> Tensor:
        """A method's map of what is known."""
        values = method.of(known)
        flags = None if layer is None else method.is_weightless(known, values)
        if layer is not None and flags is not None:
            before = self.weightless.get(layer)
            self.weightless[layer] = flags if before is None else flags | before
        return values

    def _known(self, target: int, layer: str | None) -> dict[str, Any]:
        known: dict[str, Any] = {"inputs": self.inputs}
        if layer is not None:
            known["activations"] = self.activations[layer]
            if self.gradients:
                known["gradients"] = self.gradients[target][layer]
        if self.input_gradients:
            known["input_gradients"] = self.input_gradients[target]
        if self.guided_gradients:
            known["guided_gradients"] = self.guided_gradients[target]
        return known


def gather(
    request: Request,
    recorder: Recorder,
    scores: Tensor,
    leaf: Tensor | None,
    keep_graph: bool,
    findings: Findings,
) -> Evidence:
    """Activations, gradients and guided gradients; one backward pass for each target and kind."""
    needed = request.evidence
    if not scores.requires_grad:
        raise NoMapError(_unconnected(recorder, request))
    recorded = recorder.activations(scores)
    _complain_of_missing(request, recorder, recorded)
    columns = scores.unbind(1)
    last = len(columns) - 1
    guided_follows = "guided_gradients" in needed
    of_layers = recorded if "gradients" in needed else []
    of_layers_only = needed == {"activations", "gradients"}
    if (
        of_layers_only
        and not keep_graph
        and len(of_layers) > 1
        and can_pass(scores, [a.stored for a in of_layers])
    ):
        return _maps_in_passing(request, recorder, recorded, columns)
    wanted = [activation.stored for activation in of_layers]
    if "input_gradients" in needed and leaf is not None:
        wanted.append(leaf)
    rows = [
        gradients(column, wanted, retain_graph=keep_graph or guided_follows or index < last)
        for index, column in enumerate(columns)
    ]
    found = Evidence()
    if of_layers:
        recorded = _connected(request, recorder, recorded, rows)
        if isinstance(recorder, AutoRecorder):
            _warn_of_silence(recorded[0].layer, [row[0] for row in rows], findings)
        kept = {activation.layer for activation in recorded}
        found.gradients = [
            {
                activation.layer: as_map(grad, activation.layout)
                for activation, grad in zip(of_layers, row, strict=False)
                if activation.layer in kept and grad is not None
            }
            for row in rows
        ]
    if leaf is not None:
        found.inputs = plain(leaf.detach())
        if "input_gradients" in needed:
            found.input_gradients = [_of_input(row[-1]) for row in rows]
        if guided_follows:
            with guided.rectified(scores):
                for index, column in enumerate(columns):
                    (grad,) = gradients(column, [leaf], retain_graph=keep_graph or index < last)
                    found.guided_gradients.append(_of_input(grad))
    found.activations = {activation.layer: activation.values for activation in recorded}
    found.layers = list(found.activations)
    return found


def _maps_in_passing(
    request: Request, recorder: Recorder, recorded: list[Activation], columns: Sequence[Tensor]
) -> Evidence:
    """The maps of many layers, each made while the backward pass is there.

    So neither the gradients of all layers are kept, nor, after the last target, the activations.
    """
    of_tensor: dict[int, list[Activation]] = {}
    for activation in recorded:
        of_tensor.setdefault(id(activation.stored), []).append(activation)
    groups = list(of_tensor.values())
    device = columns[0].device.type
    found = Evidence(maps=[{} for _ in columns])

    def use(maps: dict[str, dict[str, Tensor]], last: bool, index: int, grad: Tensor) -> None:
        with _state.full_precision(device):
            for activation in groups[index]:
                known = {"activations": activation.values}
                known["gradients"] = as_map(grad, activation.layout)
                maps[activation.layer] = {
                    method.name: found.made(method, activation.layer, known)
                    for method in request.methods
                }
                if last:
                    activation.release()

    for index, (column, maps) in enumerate(zip(columns, found.maps, strict=True)):
        last = index + 1 == len(columns)
        tensors = (group[0].stored for group in groups)
        in_passing(column, tensors, partial(use, maps, last), retain_graph=not last)
    rows = [[maps.get(activation.layer) for activation in recorded] for maps in found.maps]
    found.layers = [a.layer for a in _connected(request, recorder, recorded, rows)]
    return found


def _warn_of_silence(layer: str, grads: Sequence[Tensor | None], findings: Findings) -> None:
    """A finding for samples whose target has no gradient at all at the layer that was chosen."""
    silent = torch.stack([(g == 0).flatten(1).all(1) for g in grads if g is not None], 1)
    findings.add(
        silent,
        f"The target's gradient is zero at layer {layer!r}, which was chosen automatically, for "
        "sample(s) {samples}: the map is zero there. If this target is made by another branch of "
        "the model, name a layer of that branch.",
    )


def _of_input(grad: Tensor | None) -> Tensor:
    if grad is None:
        raise NoMapError(
            "The target does not depend on the input: is a part of the model run under no_grad, "
            "or its input detached?"
        )
    grad = plain(grad)
    return grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad


def _complain_of_missing(request: Request, recorder: Recorder, recorded: list[Activation]) -> None:
    """An error for named layers of which no map can be made; "full" leaves them out."""
    if not any(method.of_layer for method in request.methods):
        return
    got = {activation.layer for activation in recorded}
    missing = [] if request.layer in ("auto", "full", None) else _names(request.layer)
    for name in missing:
        if name not in got:
            raise NoMapError(
                f"No map can be made of layer {name!r}: {recorder.reason(name)}. Choose another "
                "layer, e.g. one before it, or layer='auto'."
            )
    if not recorded:
        raise NoMapError(
            "No map can be made of any layer of this model: none puts out features with spatial "
            "axes. Methods that need no layer are 'saliency', 'inputxgradient' and 'gbp'."
        )


def _names(layer: LayerLike) -> list[str]:
    """The names in a ``layer=`` that names layers."""
    return [layer] if isinstance(layer, str) else list(layer or [])


def _connected(
    request: Request,
    recorder: Recorder,
    recorded: list[Activation],
    rows: Sequence[Sequence[object]],
) -> list[Activation]:
    """The activations that every target depends on: in no target's row is None in their place."""
    kept = []
    for index, activation in enumerate(recorded):
        if all(row[index] is not None for row in rows):
            kept.append(activation)
            continue
        reason = "the target does not depend on it"
        recorder.exclude(activation.layer, reason)
        if request.layer != "full":
            raise NoMapError(
                f"No map can be made of layer {activation.layer!r}: {reason}. Is it after the "
                "output, an unused head, or detached from it? Choose another layer."
            )
    if not kept:
        raise NoMapError("The target does not depend on any layer of this model.")
    return kept


def _unconnected(recorder: Recorder, request: Request) -> str:
    """Why the scores have no graph at all."""
    if not any(method.of_layer for method in request.methods):
        what = "the input"
    elif isinstance(recorder, AutoRecorder):
        recorder.activations(torch.zeros(()))  # says so, if there is no layer at all
        what = "any layer"
    elif request.layer == "full":
        what = "any layer"
    else:
        recorder.activations(torch.zeros(()))  # finds out which layers did not run
        for name in _names(request.layer):
            if (why := recorder.reason(name)) is not None:
                return f"No map can be made of layer {name!r}: {why}. Choose another layer."
        what = f"layer {request.layer!r}"
    return (
        f"The output does not depend on {what}. Does the model's forward run under no_grad, "
        "detach, or return integers? Choose another layer=, or another tensor with output=."
    )
