"""The automatic layer of a segmentation: checked in its first run, remembered afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from medcam.engine.auto_layer import AutoRecorder
from medcam.engine.capture import Recorder
from medcam.engine.layer_use import MEMORY, CheckedLayer, Examination, OtherLayerError
from medcam.engine.model.layers import LayerChoice
from medcam.engine.prepare import Prepared
from medcam.engine.target.resolution import TargetLike, name_of_target, reads_output
from medcam.engine.target.scores import TargetScores
from medcam.maps import ResolvedTarget


def with_remembered_layer(prepared: Prepared) -> tuple[Prepared, CheckedLayer | None]:
    """Return the call with the layer that was found in an earlier one, if there is one."""
    if not _may_check(prepared):
        return prepared, None
    known = MEMORY.get(prepared.model, _key(prepared))
    return (prepared, None) if known is None else (with_layer(prepared, known), known)


def with_layer(prepared: Prepared, choice: CheckedLayer) -> Prepared:
    """Return the call with a checked layer instead of the automatic choice."""
    name = choice.use.layer
    layers = LayerChoice({name: prepared.model.get_submodule(name)})
    return dataclasses.replace(prepared, choice=layers)


def without_check(prepared: Prepared) -> Prepared:
    """Return the call with the automatic layer as it is chosen."""
    request = dataclasses.replace(prepared.request, check_layer=False)
    return dataclasses.replace(prepared, request=request)


def check_layer(
    prepared: Prepared,
    recorder: Recorder,
    scores: TargetScores,
    logits: Tensor | None,
    run: Callable[[], Tensor],
    output: Any,
    *,
    is_whole: bool,
    is_unchanged: bool,
) -> CheckedLayer | None:
    """Return what is known of the automatic layer of a segmentation; None for all else.

    Args:
        prepared: The call.
        recorder: The hooks of the run.
        scores: The resolved target.
        logits: The explained tensor of the output.
        run: Runs the model again on the same inputs; returns its logits.
        output: The model's output.
        is_whole: Whether the graph spans the network. Which layers a skip connection leads from
            is then not seen, so that a run of its own has to find out.
        is_unchanged: Whether the inputs are as they were. A model that writes to them cannot be run
            on them again.

    Raises:
        OtherLayerError: Another layer has to be explained, or found first.
    """
    if not _may_check(prepared) or logits is None or not isinstance(recorder, AutoRecorder):
        return None
    if scores.target.task != "segmentation" or not scores.values.requires_grad:
        return None
    if prepared.model.training or not is_unchanged:
        return None
    chosen = recorder.activations(scores.values)
    if len(chosen) != 1 or chosen[0].layout.kind == "tokens":
        return None
    if is_whole:
        raise OtherLayerError(output, None)
    first, others = chosen[0].layer, recorder.others(chosen[0])
    if not others:  # nothing leads around the layer
        return None
    if recorder.is_full_size(chosen[0]):
        first, *others = others
    target = prepared.request.window_target or scores.target
    examined = Examination(
        prepared.model, prepared.modules, run, logits, scores.values, target.classes,
        target.regions,
    )  # fmt: skip
    choice = dataclasses.replace(examined.choose(first, others), branches=recorder.branches)
    choice.report()
    is_known = is_remembered(prepared.request.target, target)
    if is_known and choice.use.dice is not None and recorder.chose_last_run(chosen[0].key):
        MEMORY.set(prepared.model, _key(prepared), choice)
    if choice.use.layer != chosen[0].layer:
        raise OtherLayerError(output, choice)
    return choice


def is_remembered(target: TargetLike, resolved: ResolvedTarget) -> bool:
    """Return whether a target's name tells it from all others: not that of a mask or a function."""
    return not resolved.is_part and (resolved.classes is not None or not reads_output(target))


def _may_check(prepared: Prepared) -> bool:
    """Return whether the layer is chosen automatically, and may be checked."""
    return prepared.request.check_layer and prepared.request.chooses_layer


def _key(prepared: Prepared) -> object:
    """Return what the automatic layer depends on, but for the model's weights."""
    request = prepared.request
    of_volume = request.window_target
    name = name_of_target(request.target) if of_volume is None else of_volume.description
    return name, repr(request.output), prepared.chosen
