"""The passes of a run: the forward pass under hooks, the target's score, the backward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from medcam.engine import guided, own_input
from medcam.engine.agreements import warn_of_parts
from medcam.engine.assemble import Assembled, assemble
from medcam.engine.auto_layer import AutoRecorder
from medcam.engine.automatic import check_layer
from medcam.engine.blanks import BlankContext, BlankKey, empty_targets, notice_blanks
from medcam.engine.capture import Recorder
from medcam.engine.evidence import Evidence
from medcam.engine.explained import logits_of_run, score_output
from medcam.engine.gather import gather
from medcam.engine.layer_use import CheckedLayer
from medcam.engine.memory import checkpointing, lean, reentrant
from medcam.engine.model import isolation, layers
from medcam.engine.model.copies import version_of
from medcam.engine.model.inputs import find_images, no_image_message, with_leaves
from medcam.engine.model.instance_norms import CorrectInstanceNorms
from medcam.engine.model.nested import tensors
from medcam.engine.model.placements import Placements
from medcam.engine.model.probabilities import Probabilities
from medcam.engine.model.signature import signature_of
from medcam.engine.prepare import Prepared
from medcam.engine.replay_maps import Rerun, add_replayed
from medcam.engine.request import Request
from medcam.engine.target.scores import TargetScores
from medcam.errors import image_error, reason_of


@dataclass(frozen=True, eq=False)
class Recorded:
    """Results of the forward and the backward pass.

    Attributes:
        output: The model's output, with its graph.
        scores: The resolved target.
        evidence: Activations and gradients.
        recorder: The hooks, with the reasons why layers were left out.
        assembled: The maps, and the images that they lie on.
        is_new: Whether the places of the layers were traced in this call, or are outdated.
        blanks: The maps that are zero everywhere, with the reason.
        checked: What is known of the automatic layer of a segmentation.
        final_function: The softmax or sigmoid that the model ends in, if its logits are explained.
    """

    output: Any
    scores: TargetScores
    evidence: Evidence
    recorder: Recorder
    assembled: Assembled
    is_new: bool
    blanks: dict[BlankKey, Tensor]
    checked: CheckedLayer | None
    final_function: str


def record(
    prepared: Prepared,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    keep_graph: bool,
    save_less: bool,
    *,
    own: bool = False,
) -> Recorded:
    """Run the model under hooks, score its output, and make the maps from the gradients."""
    request = prepared.request
    save_less = save_less and not keep_graph
    with ExitStack() as stack:
        stack.enter_context(isolation.cudnn(request.cudnn))
        stack.enter_context(isolation.eager(prepared.modules))
        if not keep_graph:
            stack.enter_context(isolation.frozen_parameters(prepared.modules))
            args, kwargs = isolation.detached_inputs((args, dict(kwargs)))
        transparent = partial(reentrant.transparent, prepared.modules, keep_graph=keep_graph)
        stack.enter_context(transparent())
        probabilities = Probabilities(len(prepared.image), tuple(prepared.image.shape[2:]))
        modes = partial(_forward_modes, request, save_less, transparent, probabilities.note)
        blocks = _checkpointed_blocks(prepared, args, kwargs, modes)
        leaves: dict[int, Tensor] = {}
        plain = args, dict(kwargs)
        if request.differentiates_input:
            args, kwargs, leaves = _with_leaves(prepared, args, dict(kwargs), own)
        inputs = _images_of(prepared, args, kwargs)
        placements = _placements(prepared, args, kwargs, inputs)
        recorder = stack.enter_context(_recorder(prepared, inputs, placements, keep_graph))
        forward_context: AbstractContextManager[None] = modes()
        if not (prepared.choice.automatic or leaves or request.replayed) and save_less:
            forward_context = deferred = lean.DeferredLeanBackward(probabilities.note)
            recorder.on_graph_start = deferred.begin
        norms = nullcontext() if save_less else CorrectInstanceNorms(probabilities.note)
        versions = _versions(args, kwargs)
        with placements.tracing(prepared.modules), blocks, norms, forward_context:
            output = _output_of(prepared, call, args, kwargs)
        recorder.stop()
        placements.record_output(output)
        placements.finish()
        own_input.require_used(output, leaves.values(), own)
        is_bag = request.layout == "bag" or placements.is_bag(output, len(prepared.image))
        batch = 1 if is_bag else len(prepared.image)
        explained = score_output(prepared, output, probabilities, batch=batch)
        scores, logits = explained.scores, explained.logits
        probabilities.forget()
        request = request.for_target(scores.target)
        warn_of_parts(request, scores.target)
        recorder.note_task(scores.target.task, is_bag=is_bag)
        is_unchanged = versions == _versions(args, kwargs)
        again = partial(logits_of_run, request, prepared.image, batch=batch)
        checked = check_layer(
            prepared, recorder, scores, logits, partial(again, partial(call, *args, **kwargs)),
            output, is_whole=keep_graph or bool(leaves), is_unchanged=is_unchanged,
        )  # fmt: skip
        with isolation.separate_buffers(prepared.modules if keep_graph else ()), _own(norms):
            evidence = gather(request, recorder, scores.values, leaves, keep_graph)
        axes = placements.map_axes(is_bag=is_bag)
        recorder.end()
        if request.replayed:
            rerun = Rerun(prepared, call, *plain, record, save_less, is_unchanged, axes)
            add_replayed(request, evidence, explained, rerun)
        with isolation.full_precision(prepared.image.device.type):
            assembled = assemble(request, evidence, scores, prepared, axes=axes)
        blanks = _blanks(prepared, recorder, scores, evidence)
    is_new = placements.traced or placements.is_outdated
    return Recorded(
        output, scores, evidence, recorder, assembled, is_new, blanks, checked, explained.function
    )


def _output_of(
    prepared: Prepared, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Return the model's output.

    Raises:
        InputError: The model fails, and its images hold integers, which few models take.
    """
    try:
        return call(*args, **kwargs)
    except RuntimeError as error:
        if all(image.tensor.is_floating_point() for image in prepared.images):
            raise
        message = no_image_message(args, kwargs, prepared.model)
        raise image_error(f"{message} The model's error: {reason_of(error)}") from error


def _versions(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[int]:
    """Return the version counters of the inputs, which increase when a model writes to them."""
    listed = [tensor for _, tensor in tensors((args, dict(kwargs)))]
    return list(map(version_of, listed))


def _own(norms: AbstractContextManager[Any]) -> AbstractContextManager[None]:
    """Return the context of medcam's own backward passes."""
    return norms.own_backward() if isinstance(norms, CorrectInstanceNorms) else nullcontext()


def _blanks(
    prepared: Prepared, recorder: Recorder, scores: TargetScores, evidence: Evidence
) -> dict[BlankKey, Tensor]:
    """Return the maps that are zero everywhere; warn of these, and of methods that disagree."""
    if evidence.agreements is not None and not prepared.request.is_window:
        evidence.agreements.report(prepared.notices)
    flags = evidence.blanks.of_samples(evidence.recorded, scores.values.shape[1])
    if flags and not prepared.request.is_window:
        context = BlankContext.of(
            prepared.modules,
            evidence.recorded,
            automatic=prepared.request.chooses_layer,
        )
        notice_blanks(prepared.notices, flags, empty_targets(scores.target), context)
    return flags


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


def _recorder(
    prepared: Prepared, inputs: list[Tensor], placements: Placements, keep_graph: bool
) -> Recorder:
    """Return the recorder that a request needs.

    Args:
        prepared: The call.
        inputs: The images as the model gets them.
        placements: The places of the layers.
        keep_graph: Whether the output keeps its graph, so that a better candidate of the automatic
            layer cannot start it anew.
    """
    methods, choice = prepared.request.methods, prepared.choice
    recorder = partial(Recorder, images=inputs, placements=placements, chosen=prepared.chosen)
    if not any(method.of_layer for method in methods):
        return recorder({})
    if choice.automatic:
        # A graph from the input on has to stay whole.
        restart = not (keep_graph or prepared.request.differentiates_input)
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
    request: Request,
    save_less: bool,
    transparent: Callable[[], AbstractContextManager[None]],
    observer: lean.Observer | None = None,
) -> Iterator[None]:
    """Enter the modes that the forward pass, and the recomputation of a block, run under."""
    with (
        transparent(),
        guided.VisibleRectifiers() if "guided_gradients" in request.evidence else nullcontext(),
        lean.LeanBackward(observer) if save_less else nullcontext(),
    ):
        yield
