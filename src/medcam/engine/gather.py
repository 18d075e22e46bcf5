"""Gather the evidence of a run: one backward pass for each target and kind of gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor

from medcam.engine import guided
from medcam.engine.activation import Activation, LayerKey
from medcam.engine.agreements import Agreements
from medcam.engine.capture import Recorder
from medcam.engine.evidence import Evidence
from medcam.engine.failures import (
    connected,
    require_layers,
    unconnected_message,
)
from medcam.engine.gradients import can_stream, gradients, stream_gradients
from medcam.engine.model import isolation
from medcam.engine.model.nested import without_subclass
from medcam.engine.request import Request
from medcam.errors import NoMapError


def gather(
    request: Request,
    recorder: Recorder,
    scores: Tensor,
    leaves: Mapping[int, Tensor],
    keep_graph: bool,
) -> Evidence:
    """Return the activations and gradients of a run that its methods need.

    Args:
        request: What was asked for.
        recorder: The hooks of the run.
        scores: The scores ``[batch, targets]``, attached to the graph.
        leaves: The images as leaves, by number; empty if no method needs their gradients.
        keep_graph: Whether the caller needs the graph afterwards.

    Raises:
        NoMapError: The scores depend on no recorded layer, or not on the input.
    """
    needed = request.evidence
    if not any(method.of_layer or not method.replays for method in request.methods):
        return Evidence()
    if not scores.requires_grad:
        raise NoMapError(unconnected_message(recorder, request))
    activations = recorder.activations(scores)
    if recorder.is_bag:
        activations = [activation.as_bag() for activation in activations]
    require_layers(request, recorder, activations)
    columns = scores.unbind(1)
    with_gradients = activations if "gradients" in needed else []
    stored = [tensor for activation in with_gradients for tensor in activation.tensors]
    only_layers = "gradients" in needed and needed <= {"activations", "gradients"}
    single_runs = not any(activation.further for activation in with_gradients)
    may_stream = only_layers and not keep_graph and len(stored) > 1 and single_runs
    if may_stream and can_stream(scores, stored):
        return _stream_maps(request, recorder, activations, columns)
    guided_follows = "guided_gradients" in needed
    plain_leaves = leaves if "input_gradients" in needed else {}
    last = len(columns) - 1
    rows = [
        gradients(
            column, [*stored, *plain_leaves.values()],
            retain_graph=keep_graph or guided_follows or index < last,
        )
        for index, column in enumerate(columns)
    ]  # fmt: skip
    evidence = Evidence(agreements=_agreements(request, activations, columns))
    if with_gradients:
        per_run = [_per_activation(with_gradients, row) for row in rows]
        activations = connected(request, recorder, activations, per_run)
        evidence.gradients = [_by_layer(with_gradients, activations, row) for row in per_run]
    if leaves:
        evidence.inputs = {n: without_subclass(leaf.detach()) for n, leaf in leaves.items()}
        if plain_leaves:
            evidence.input_gradients = _of_inputs(leaves, [row[len(stored) :] for row in rows])
        if guided_follows:
            evidence.guided_gradients = _guided_gradients(scores, leaves, keep_graph)
    evidence.activations = {activation.key: activation.values for activation in activations}
    evidence.recorded = {activation.key: activation for activation in activations}
    evidence.layers = list(evidence.activations)
    return evidence


def _agreements(
    request: Request, activations: Sequence[Activation], columns: Sequence[Tensor]
) -> Agreements | None:
    """Return where the agreement of methods is noted; None if it says little.

    That is so for every layer of a model, for several targets (a class that is not predicted has
    weak evidence), and for slices or views one by one.
    """
    arrangements = [activation.layout.arrangement for activation in activations]
    is_plain = not any(item.slices for item in arrangements if item is not None)
    if request.layer == "full" or len(columns) > 1 or not is_plain:
        return None
    return Agreements()


def _per_activation(
    recorded: Sequence[Activation], row: Sequence[Tensor | None]
) -> list[list[Tensor] | None]:
    """Return one target's gradients of each activation's runs; None where one is unconnected."""
    grads = iter(row)
    result: list[list[Tensor] | None] = []
    for activation in recorded:
        of_runs = [next(grads) for _ in activation.tensors]
        known = [grad for grad in of_runs if grad is not None]
        result.append(known if len(known) == len(of_runs) else None)
    return result


def _by_layer(
    recorded: Sequence[Activation],
    kept: Sequence[Activation],
    row: Sequence[list[Tensor] | None],
) -> dict[LayerKey, Tensor]:
    """Return one target's gradients of the layers that are kept."""
    keys = {activation.key for activation in kept}
    return {
        activation.key: activation.evidence(grads)
        for activation, grads in zip(recorded, row, strict=True)
        if activation.key in keys and grads is not None
    }


def _guided_gradients(
    scores: Tensor, leaves: Mapping[int, Tensor], keep_graph: bool
) -> list[dict[int, Tensor]]:
    """Return the guided gradients of each target with respect to the images."""
    columns = scores.unbind(1)
    last = len(columns) - 1
    with guided.rectified(scores):
        rows = [
            gradients(column, [*leaves.values()], retain_graph=keep_graph or index < last)
            for index, column in enumerate(columns)
        ]
    return _of_inputs(leaves, rows)


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
    device, last = columns[0].device.type, len(columns) - 1
    agreements = _agreements(request, activations, columns)
    evidence = Evidence(maps=[{} for _ in columns], agreements=agreements)

    def use(target: int, index: int, grad: Tensor) -> None:
        with isolation.full_precision(device):
            for activation in groups[index]:
                by_name = {"activations": activation.values}
                by_name["gradients"] = activation.evidence([grad])
                evidence.maps[target][activation.key] = {
                    method.name: evidence.apply(method, target, activation.key, by_name)
                    for method in request.methods
                }
                if target == last:
                    activation.release()

    for target, column in enumerate(columns):
        tensors = (group[0].stored for group in groups)
        stream_gradients(column, tensors, partial(use, target), retain_graph=target != last)
    rows = [[maps.get(activation.key) for activation in activations] for maps in evidence.maps]
    kept = connected(request, recorder, activations, rows)
    evidence.recorded = {activation.key: activation for activation in kept}
    evidence.layers = list(evidence.recorded)
    return evidence


def _of_inputs(
    leaves: Mapping[int, Tensor], rows: Sequence[Sequence[Tensor | None]]
) -> list[dict[int, Tensor]]:
    """Return each target's gradients of the images that every target depends on.

    The gradients are plain and at least float32.
    """
    numbers = [
        number for index, number in enumerate(leaves) if all(row[index] is not None for row in rows)
    ]
    if not numbers:
        raise NoMapError(
            "The target does not depend on the input. Does a part of the model run under no_grad, "
            "or detach its input? Choose a method of a layer after that part."
        )
    return [
        {
            number: _plain(grad)
            for number, grad in zip(leaves, row, strict=True)
            if number in numbers and grad is not None
        }
        for row in rows
    ]


def _plain(grad: Tensor) -> Tensor:
    """Return a gradient without its subclass, at least float32."""
    grad = without_subclass(grad)
    return grad.float() if grad.is_floating_point() and grad.element_size() < 4 else grad
