"""One run of a model: prepare the call, record the forward pass, assemble the maps."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from medcam.engine import guided, own_input
from medcam.engine.assemble import Assembled, assemble
from medcam.engine.auto_layer import AutoRecorder
from medcam.engine.capture import Recorder
from medcam.engine.evidence import Evidence
from medcam.engine.failures import last_runs, unknown_places
from medcam.engine.gather import gather
from medcam.engine.memory import checkpointing, lean, reentrant
from medcam.engine.model import isolation, layers, outputs
from medcam.engine.model.inputs import (
    find_images,
    with_leaves,
)
from medcam.engine.model.placements import Placements
from medcam.engine.model.signature import signature_of
from medcam.engine.notices import (
    notice_cancelling,
    warn_of_probabilities,
)
from medcam.engine.prepare import Prepared, prepare
from medcam.engine.request import Request
from medcam.engine.result import Run
from medcam.engine.target import resolution
from medcam.engine.target.scores import TargetScores
from medcam.errors import warn

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
    try:
        prepared = prepare(request, model, args, kwargs)
        record = partial(_record, prepared, call, args, kwargs, keep_graph, save_less)
        recorded = own_input.retried(record, [image.tensor for image in prepared.images])
        return _finish(prepared, recorded, keep_graph)
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


@dataclass(frozen=True, eq=False)
class _Recorded:
    """Results of the forward and the backward pass.

    Attributes:
        output: The model's output, with its graph.
        scores: The resolved target.
        evidence: Activations and gradients.
        recorder: The hooks, with the reasons why layers were left out.
        assembled: The maps, and the images that they lie on.
        is_new: Whether the places of the layers were traced in this call, or are outdated.
    """

    output: Any
    scores: TargetScores
    evidence: Evidence
    recorder: Recorder
    assembled: Assembled
    is_new: bool


def _record(
    prepared: Prepared,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    keep_graph: bool,
    save_less: bool,
    *,
    own: bool = False,
) -> _Recorded:
    """Run the model under hooks, score its output, and make the maps from the gradients."""
    request, notices = prepared.request, prepared.notices
    save_less = save_less and not keep_graph
    with ExitStack() as stack:
        stack.enter_context(isolation.cudnn(request.cudnn))
        stack.enter_context(isolation.eager(prepared.modules))
        if not keep_graph:
            stack.enter_context(isolation.frozen_parameters(prepared.modules))
            args, kwargs = isolation.detached_inputs((args, dict(kwargs)))
        transparent = partial(reentrant.transparent, prepared.modules, keep_graph=keep_graph)
        stack.enter_context(transparent())
        modes = partial(_forward_modes, request, save_less, transparent)
        blocks = _checkpointed_blocks(prepared, args, kwargs, modes)
        leaves: dict[int, Tensor] = {}
        if any(method.of_input for method in request.methods):
            args, kwargs, leaves = _with_leaves(prepared, args, dict(kwargs), own)
        inputs = _images_of(prepared, args, kwargs)
        placements = _placements(prepared, args, kwargs, inputs)
        recorder = stack.enter_context(
            _recorder(prepared, inputs, placements, restart=not keep_graph)
        )
        forward_context: AbstractContextManager[None] = modes()
        if not prepared.choice.automatic and not leaves and save_less:
            forward_context = deferred = lean.DeferredLeanBackward()
            recorder.on_graph_start = deferred.begin
        with placements.tracing(prepared.modules), blocks, forward_context:
            output = call(*args, **kwargs)
        recorder.stop()
        placements.record_output(output)
        placements.finish()
        own_input.require_used(output, leaves.values(), own)
        is_bag = request.layout == "bag" or placements.is_bag(output, len(prepared.image))
        scores = _scores(prepared, output, batch=1 if is_bag else len(prepared.image))
        recorder.is_bag = is_bag
        recorder.by_gradient = scores.target.task == "detection"
        with isolation.separate_buffers(prepared.modules if keep_graph else ()):
            evidence = gather(request, recorder, scores.values, leaves, keep_graph, notices)
        with isolation.full_precision(prepared.image.device.type):
            axes = placements.map_axes(is_bag=is_bag)
            assembled = assemble(request, evidence, scores, prepared.images, notices, axes=axes)
            notice_cancelling(notices, evidence.blank)
    is_new = placements.traced or placements.is_outdated
    return _Recorded(output, scores, evidence, recorder, assembled, is_new)


def _scores(prepared: Prepared, output: Any, *, batch: int) -> TargetScores:
    """Return the scores of the target: of a detector's boxes, or of the output's logits."""
    request, space = prepared.request, tuple(prepared.image.shape[2:])
    selected = outputs.select_detections(output, request.output, batch=batch)
    if selected is not None:
        return resolution.resolve_detections(request.target, *selected, prepared.notices)
    logits = outputs.select(output, request.output, batch=batch, space=space)
    warn_of_probabilities(logits)
    return resolution.resolve(request.target, logits, prepared.notices, axes=len(space))


def _images_of(
    prepared: Prepared, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[Tensor]:
    """Return the images as the model gets them: the caller's tensors, or copies."""
    if len(args) == 1 and not kwargs and args[0] is prepared.images[0].tensor:
        return [args[0]]
    return [image.tensor for image in find_images(args, kwargs, prepared.model)]


def _with_leaves(
    prepared: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any], own: bool
) -> tuple[tuple[Any, ...], dict[str, Any], dict[int, Tensor]]:
    """Return the inputs with the images attached to leaves, and the leaves by number."""
    images = [image.tensor for image in find_images(args, kwargs, prepared.model)]
    numbers = [n for n in range(len(images)) if prepared.chosen in (None, n)]
    args, kwargs, leaves = with_leaves(
        args, kwargs, [images[n] for n in numbers],
        [prepared.images[n].tensor for n in numbers] if own else (),
    )  # fmt: skip
    return args, kwargs, dict(zip(numbers, leaves, strict=True))


def _placements(
    prepared: Prepared, args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: list[Tensor]
) -> Placements:
    """Return the places of the layers in this call."""
    layers_of_choice = None if prepared.choice.automatic else list(prepared.choice.modules)
    if not any(method.of_layer for method in prepared.request.methods):
        layers_of_choice = []
    return Placements(
        prepared.model, inputs, signature_of(prepared.modules, (args, dict(kwargs))),
        layers_of_choice, originals=[image.tensor for image in prepared.images],
        others=(args, dict(kwargs)),
        names=[image.name for image in prepared.images],
    )  # fmt: skip


def _finish(prepared: Prepared, recorded: _Recorded, keep_graph: bool) -> Run:
    """Return the plain values of the run, and log which layers were left out."""
    recorder, keys = recorded.recorder, recorded.evidence.layers
    used_layers = tuple(dict.fromkeys(layer for layer, _ in keys))
    skipped = {
        layer: reason
        for layer in prepared.choice.modules
        if layer not in used_layers and (reason := recorder.reason(layer))
    }
    for layer, reason in skipped.items():
        _log.info("layer %r left out: %s", layer, reason)
    places = recorded.evidence.recorded if recorded.is_new else {}
    if prepared.request.placement == "resize":
        places = {}
    for message in [*last_runs(recorder, used_layers), *unknown_places(places.values())]:
        if prepared.choice.optional:
            _log.info(message)
        else:
            warn(message)
    output, assembled = recorded.output, recorded.assembled
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
        features=recorder.features,
    )


def _recorder(
    prepared: Prepared, inputs: list[Tensor], placements: Placements, *, restart: bool
) -> Recorder:
    """Return the recorder that a request needs.

    Args:
        prepared: The call.
        inputs: The images as the model gets them.
        placements: The places of the layers.
        restart: Whether a better candidate of the automatic layer may start the graph anew.
    """
    methods, choice = prepared.request.methods, prepared.choice
    recorder = partial(Recorder, images=inputs, placements=placements, chosen=prepared.chosen)
    if not any(method.of_layer for method in methods):
        return recorder({})
    if choice.automatic:
        # A graph from the input on has to stay whole.
        restart = restart and not any(method.of_input for method in methods)
        return AutoRecorder(
            prepared.model, images=inputs, placements=placements, chosen=prepared.chosen,
            restart=restart,
        )  # fmt: skip
    return recorder(choice.modules)


def _checkpointed_blocks(
    prepared: Prepared,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    modes: Callable[[], AbstractContextManager[None]],
) -> AbstractContextManager[None]:
    """Return a context in which blocks are checkpointed; they are chosen before hooks are set."""
    if prepared.request.memory != "low":
        return nullcontext()
    chosen = checkpointing.chosen_blocks(layers.unwrap(prepared.model), args, kwargs, modes)
    return checkpointing.checkpointed(chosen, modes)


@contextmanager
def _forward_modes(
    request: Request, save_less: bool, transparent: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """Enter the modes that the forward pass, and the recomputation of a block, run under."""
    with (
        transparent(),
        guided.VisibleRectifiers() if "guided_gradients" in request.evidence else nullcontext(),
        lean.LeanBackward() if save_less else nullcontext(),
    ):
        yield
