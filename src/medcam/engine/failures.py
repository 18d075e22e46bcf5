"""Errors and warnings about layers of which no map can be made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from medcam.engine.activation import Activation
from medcam.engine.auto_layer import AutoRecorder
from medcam.engine.capture import Recorder
from medcam.engine.model.layers import LayerLike
from medcam.engine.request import Request
from medcam.errors import NoMapError


def require_layers(request: Request, recorder: Recorder, activations: Sequence[Activation]) -> None:
    """Raise if a named layer has no activation; "full" leaves such layers out.

    Raises:
        NoMapError: A named layer, or every layer, has none.
    """
    if not any(method.of_layer for method in request.methods):
        return
    recorded = {activation.layer for activation in activations}
    named = [] if request.layer in ("auto", "full", None) else _names(request.layer)
    for name in named:
        if name not in recorded:
            raise NoMapError(
                f"No map can be made of layer {name!r}: {recorder.reason(name)}. Choose another "
                "layer, e.g. one before it, or layer='auto'."
            )
    if not activations:
        raise NoMapError(
            "No map can be made of any layer of this model: none returns features with spatial "
            "axes. Methods that need no layer are 'saliency', 'inputxgradient' and 'gbp'."
        )


def connected(
    request: Request,
    recorder: Recorder,
    activations: Sequence[Activation],
    rows: Sequence[Sequence[object]],
) -> list[Activation]:
    """Return the activations that every target depends on.

    Args:
        request: The request.
        recorder: Records the reason for each layer that is left out.
        activations: The recorded activations.
        rows: For each target one item per activation, which is None where the target does not
            depend on it.

    Raises:
        NoMapError: A named layer, or every layer, is unconnected.
    """
    kept = []
    for index, activation in enumerate(activations):
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


def unconnected_message(recorder: Recorder, request: Request) -> str:
    """Return the error message for scores without a graph."""
    if not any(method.of_layer for method in request.methods):
        source = "the input"
    elif isinstance(recorder, AutoRecorder):
        recorder.activations(torch.zeros(()))  # raises if no layer was found
        source = "any layer"
    elif request.layer == "full":
        source = "any layer"
    else:
        recorder.activations(torch.zeros(()))  # records which layers did not run
        for name in _names(request.layer):
            if (reason := recorder.reason(name)) is not None:
                return f"No map can be made of layer {name!r}: {reason}. Choose another layer."
        source = f"layer {request.layer!r}"
    return (
        f"The output does not depend on {source}. Does the model's forward run under no_grad, "
        "detach, or return integers? Choose another layer=, or another tensor with output=. The "
        "methods 'occlusion' and 'rise' need no gradient."
    )


def last_runs(recorder: Recorder, layers: Iterable[str]) -> Iterator[str]:
    """Yield what to say of layers with a map of some of their runs only.

    Args:
        recorder: The hooks of the run.
        layers: The layers that have a map.
    """
    for layer in layers:
        if layer in recorder.unplaced:
            yield (
                f"Layer {layer!r} also ran where it has no map, because {recorder.unplaced[layer]}:"
                " its map lacks what these runs saw."
            )
    for layer in recorder.last_run_only:
        parts = layer in recorder.ran_on_parts
        yield (
            f"Layer {layer!r} ran several times on "
            f"{'parts of the same image that do not tile it' if parts else 'the same image'}: its "
            "map is that of the last run that the target depends on"
            f"{', and zero outside that part' if parts else ''}."
        )


def other_branches(recorder: Recorder, layers: Iterable[str]) -> Iterator[str]:
    """Yield what to say of branches of the model that the automatic layer does not see.

    Args:
        recorder: The hooks of the run.
        layers: The layers that have a map.
    """
    if not isinstance(recorder, AutoRecorder) or not recorder.branches:
        return
    largest = sorted(recorder.branches.items(), key=lambda item: -item[1])[:_MOST_BRANCHES]
    listed = ", ".join(f"{name!r} ({share:.0%} of the evidence)" for name, share in largest)
    yield (
        f"The target also depends on {listed}, by paths that do not pass layer "
        f"{', '.join(map(repr, layers))}, which was chosen automatically: its map shows a part of "
        "the evidence. Name the layers together, layer=[...], to see the other branches."
    )


_MOST_BRANCHES = 4
"""The most branches that are named."""


def unknown_places(activations: Iterable[Activation]) -> Iterator[str]:
    """Yield what to say of layers whose place on the input is unknown."""
    for activation in activations:
        grid = activation.layout.grid
        if not grid.known:
            yield (
                f"It is unknown where the features of layer {activation.layer!r} lie on the input "
                f"({grid.reason}): its map is stretched over the input, as with "
                "placement='resize'."
            )


def _names(layer: LayerLike) -> list[str]:
    """Return the layer names of a ``layer=`` that is neither "auto" nor "full"."""
    return [layer] if isinstance(layer, str) else list(layer or [])
