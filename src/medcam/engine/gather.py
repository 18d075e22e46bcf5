"""Gather the evidence of a run: one backward pass for each target and kind of gradient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from medcam.engine import guided
from medcam.engine.auto_layer import AutoRecorder
from medcam.engine.capture import Activation, Recorder, as_evidence
from medcam.engine.evidence import Evidence
from medcam.engine.failures import (
    connected,
    notice_zero_gradients,
    require_layers,
    unconnected_message,
)
from medcam.engine.gradients import can_stream, gradients, stream_gradients
from medcam.engine.model import isolation
from medcam.engine.model.nested import without_subclass
from medcam.engine.notices import Notices
from medcam.engine.request import Request
from medcam.errors import NoMapError


def gather(
    request: Request,
    recorder: Recorder,
    scores: Tensor,
    leaf: Tensor | None,
    keep_graph: bool,
    notices: Notices,
) -> Evidence:
    """Return the activations and gradients of a run that its methods need.

    Args:
        request: What was asked for.
        recorder: The hooks of the run.
        scores: The scores ``[batch, targets]``, attached to the graph.
        leaf: The main input as a leaf; None if no method needs its gradient.
        keep_graph: Whether the caller needs the graph afterwards.
        notices: Where warnings are added.

    Raises:
        NoMapError: The scores depend on no recorded layer, or not on the input.
    """
    needed = request.evidence
    if not scores.requires_grad:
        raise NoMapError(unconnected_message(recorder, request))
    activations = recorder.activations(scores)
    require_layers(request, recorder, activations)
    columns = scores.unbind(1)
    with_gradients = activations if "gradients" in needed else []
    stored = [activation.stored for activation in with_gradients]
    only_layers = "gradients" in needed and needed <= {"activations", "gradients"}
    if only_layers and not keep_graph and len(stored) > 1 and can_stream(scores, stored):
        return _stream_maps(request, recorder, activations, columns)
    tensors = [*stored]
    if "input_gradients" in needed and leaf is not None:
        tensors.append(leaf)
    guided_follows = "guided_gradients" in needed
    last = len(columns) - 1
    rows = [
        gradients(column, tensors, retain_graph=keep_graph or guided_follows or index < last)
        for index, column in enumerate(columns)
    ]
    evidence = Evidence()
    if with_gradients:
        activations = connected(request, recorder, activations, rows)
        if isinstance(recorder, AutoRecorder):
            notice_zero_gradients(notices, activations[0].layer, [row[0] for row in rows])
        evidence.gradients = [_by_layer(with_gradients, activations, row) for row in rows]
    if leaf is not None:
        evidence.inputs = without_subclass(leaf.detach())
        if "input_gradients" in needed:
            evidence.input_gradients = [_of_input(row[-1]) for row in rows]
        if guided_follows:
            evidence.guided_gradients = _guided_gradients(scores, leaf, keep_graph)
    evidence.activations = {activation.layer: activation.values for activation in activations}
    evidence.layers = list(evidence.activations)
    return evidence


def _by_layer(
    recorded: Sequence[Activation], kept: Sequence[Activation], row: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    """Return one target's gradients of the layers that are kept."""
    layers = {activation.layer for activation in kept}
    return {
        activation.layer: as_evidence(grad, activation.layout)
        for activation, grad in zip(recorded, row, strict=False)
        if activation.layer in layers and grad is not None
    }


def _guided_gradients(scores: Tensor, leaf: Tensor, keep_graph: bool) -> list[Tensor]:
    """Return the guided gradient of each target with respect to the input."""
    columns = scores.unbind(1)
    last = len(columns) - 1
    guided_gradients = []
    with guided.rectified(scores):
        for index, column in enumerate(columns):
            (grad,) = gradients(column, [leaf], retain_graph=keep_graph or index < last)
            guided_gradients.append(_of_input(grad))
    return guided_gradients


def _stream_maps(
    request: Request,
    recorder: Recorder,
    activations: Sequence[Activation],
    columns: Sequence[Tensor],
) -> Evidence:
    """Make the maps of many layers during the backward pass.

    At most one layer's gradient is alive, and a layer's activations are released after its map for
    the last target.
    """
    by_tensor: dict[int, list[Activation]] = {}
    for activation in activations:
        by_tensor.setdefault(id(activation.stored), []).append(activation)
    groups = list(by_tensor.values())
    device = columns[0].device.type
    evidence = Evidence(maps=[{} for _ in columns])

    def use(maps: dict[str, dict[str, Tensor]], is_last: bool, index: int, grad: Tensor) -> None:
        with isolation.full_precision(device):
            for activation in groups[index]:
                by_name = {"activations": activation.values}
                by_name["gradients"] = as_evidence(grad, activation.layout)
                maps[activation.layer] = {
                    method.name: evidence.apply(method, activation.layer, by_name)
                    for method in request.methods
                }
                if is_last:
                    activation.release()

    for index, (column, maps) in enumerate(zip(columns, evidence.maps, strict=True)):
        is_last = index + 1 == len(columns)
        tensors = (group[0].stored for group in groups)
        stream_gradients(column, tensors, partial(use, maps, is_last), retain_graph=not is_last)
    rows = [[maps.get(activation.layer) for activation in activations] for maps in evidence.maps]
    evidence.layers = [a.layer for a in connected(request, recorder, activations, rows)]
    return evidence


def _of_input(grad: Tensor | None) -> Tensor:
    """Return a gradient of the input, plain and at least float32."""
    if grad is None:
        raise NoMapError(
            "The target does not depend on the input. Does a part of the model run under no_grad, "
            "or detach its input? Choose a method of a layer after that part."
        )
    grad = without_subclass(grad)
    return grad.float() if grad.is_floating_point() and grad.element_size() < 4 else grad
