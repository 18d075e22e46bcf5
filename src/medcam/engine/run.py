"""One run of a model: prepare the call, record its passes, return plain values."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from medcam.engine import own_input
from medcam.engine.auto_layer import AutoRecorder
from medcam.engine.automatic import with_layer, with_remembered_layer, without_check
from medcam.engine.failures import last_runs, other_branches, unknown_places
from medcam.engine.layer_use import CheckedLayer, OtherLayerError
from medcam.engine.memory import checkpointing, lean
from medcam.engine.model import isolation
from medcam.engine.model.opaque import check_transparent
from medcam.engine.model.undo import protected
from medcam.engine.passes import Recorded, record
from medcam.engine.prepare import Prepared, prepare
from medcam.engine.request import Request
from medcam.engine.result import Run
from medcam.errors import warn
from medcam.methods import AUTO

_log = logging.getLogger("medcam")


def run(
    request: Request,
    model: nn.Module,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    keep_graph: bool = False,
    save_less: bool = True,
) -> Run:
    """Run a model once and return its output with the maps that were asked for.

    Args:
        request: The request.
        model: The model whose layers are recorded.
        call: The function to run: the model itself, or its plain forward.
        args: The positional inputs.
        kwargs: The keyword inputs.
        keep_graph: Whether the output keeps its graph, because the caller may need gradients.
        save_less: Whether operations save only what gradients of activations need
            (`medcam.engine.memory.lean`). If that fails, the call is repeated without it, with a
            warning.

    Raises:
        InputError: An argument does not fit the model or the input.
        NoMapError: The model ran, but no map can be made.
    """

    def once() -> Run:
        check_transparent(model, request.methods)
        prepared, checked = with_remembered_layer(prepare(request, model, args, kwargs))
        record_call = partial(record, call=call, args=args, kwargs=kwargs, save_less=save_less)
        recorded = _recorded(prepared, record_call, keep_graph)
        return _finish(prepared, recorded, recorded.checked or checked, keep_graph)

    try:
        return protected(once)
    except RuntimeError as error:
        if request.memory == "low" and checkpointing.caused(error):
            warn(
                "memory='low' does not fit this model, because a block is not reproducible when "
                f"recomputed ({error}); the call was repeated with memory='normal'."
            )
            request = dataclasses.replace(request, memory="normal")
        elif save_less and not keep_graph and lean.caused(error):
            warn(
                f"The memory-saving backward pass does not fit this model ({error}); the call was "
                "repeated with PyTorch's own. Please report it."
            )
            save_less = False
        else:
            raise
    return run(request, model, call, args, kwargs, keep_graph=keep_graph, save_less=save_less)


def _recorded(
    prepared: Prepared, record_call: Callable[..., Recorded], keep_graph: bool
) -> Recorded:
    """Run the model; if its automatic layer turns out not to be used, make the maps of another.

    Then the output is that of the first run; later ones change nothing in the model.
    """

    def recorded(prepared: Prepared, keep_graph: bool) -> Recorded:
        once = partial(record_call, prepared, keep_graph=keep_graph)
        return own_input.retried(once, [image.tensor for image in prepared.images])

    try:
        return recorded(prepared, keep_graph)
    except OtherLayerError as other:
        output, choice = other.output, other.choice
    with isolation.kept_state(prepared.modules):
        if choice is None:
            alone = dataclasses.replace(prepared.request, methods=(AUTO,))
            try:
                choice = recorded(dataclasses.replace(prepared, request=alone), False).checked
            except OtherLayerError as other:
                choice = other.choice
        named = without_check(prepared) if choice is None else with_layer(prepared, choice)
        other_run = recorded(named, False)
    return dataclasses.replace(other_run, output=output, checked=choice)


def _finish(
    prepared: Prepared, recorded: Recorded, checked: CheckedLayer | None, keep_graph: bool
) -> Run:
    """Return the plain values of the run, and log which layers were left out."""
    recorder, keys = recorded.recorder, recorded.evidence.layers
    not_finite = recorded.assembled.skipped
    used_layers = tuple(dict.fromkeys(layer for layer, _ in keys if layer not in not_finite))
    skipped = {
        layer: reason
        for layer in prepared.choice.modules
        if layer not in used_layers and (reason := not_finite.get(layer) or recorder.reason(layer))
    }
    for layer, reason in skipped.items():
        _log.info("layer %r left out: %s", layer, reason)
    places = recorded.evidence.recorded if recorded.is_new else {}
    if prepared.request.placement == "resize":
        places = {}
    for message in [
        *last_runs(recorder, used_layers),
        *other_branches(recorder, used_layers),
        *unknown_places(places.values()),
    ]:
        if prepared.choice.optional:
            _log.info(message)
        else:
            warn(message)
    output, assembled = recorded.output, recorded.assembled
    agreements = recorded.evidence.agreements
    return Run(
        output=output if keep_graph else isolation.detached_output(output),
        target=recorded.scores.target,
        maps=assembled.maps,
        layers=used_layers,
        skipped=skipped,
        notices=prepared.notices,
        names_run=not isinstance(recorder, AutoRecorder) or all(map(recorder.chose_last_run, keys)),
        inputs=next(iter(assembled.images.values())),
        images={prepared.images[n].name: image for n, image in assembled.images.items()},
        details=_details(recorded, checked),
        alternatives=_alternatives(recorded),
        blanks=recorded.blanks,
        agreements={} if agreements is None else agreements.correlations,
        features=recorder.features,
    )


def _details(recorded: Recorded, checked: CheckedLayer | None) -> dict[str, Any]:
    """Return what the record of an explanation tells of its output and layer."""
    details: dict[str, Any] = {} if checked is None else checked.details
    details.update(recorded.evidence.details)
    if recorded.final_function:
        details["model_ends_in"] = recorded.final_function
    if isinstance(recorded.recorder, AutoRecorder) and recorded.recorder.branches:
        details["other_branches"] = recorded.recorder.branches
    return details


def _alternatives(recorded: Recorded) -> tuple[str, ...]:
    """Return the layers that may be explained instead of the automatic one."""
    activations = list(recorded.evidence.recorded.values())
    if not isinstance(recorded.recorder, AutoRecorder) or len(activations) != 1:
        return ()
    return tuple(recorded.recorder.others(activations[0]))
