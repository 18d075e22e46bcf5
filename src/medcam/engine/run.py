"""One run of a model: prepare the call, record the forward pass, assemble the maps."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.jit import ScriptModule

from medcam.engine import guided, own_input
from medcam.engine.assemble import assemble
from medcam.engine.auto_layer import AutoRecorder
from medcam.engine.capture import Recorder
from medcam.engine.evidence import Evidence
from medcam.engine.gather import gather
from medcam.engine.memory import checkpointing, lean, reentrant
from medcam.engine.model import isolation, layers, outputs
from medcam.engine.model.inputs import main_input, with_leaf
from medcam.engine.model.nested import without_subclass
from medcam.engine.notices import (
    Notices,
    notice_cancelling,
    notice_non_finite,
    warn_of_probabilities,
)
from medcam.engine.request import Request, requested_shape
from medcam.engine.result import Run
from medcam.engine.target import resolution
from medcam.engine.target.scores import TargetScores
from medcam.errors import InputError, InputTypeError, warn

_log = logging.getLogger("medcam")

_BAD_INPUT = (
    "The input holds NaN or infinite values, so its maps would, too: replace these values first."
)


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
        prepared = _prepare(request, model, args, kwargs)
        record = partial(_record, prepared, call, args, kwargs, keep_graph, save_less)
        recorded = own_input.retried(record, prepared.image)
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
class _Prepared:
    """A call whose arguments have been checked.

    Attributes:
        request: The request.
        model: The model whose layers are recorded.
        choice: The layers to record.
        modules: Every module of the model once.
        input_name: The position or the keyword of the main input.
        image: The main input, ``[batch, channels, *space]``.
        shape: The spatial shape of the maps; None keeps the layer's own.
        notices: Warnings and errors whose condition has not been read from the device yet.
    """

    request: Request
    model: nn.Module
    choice: layers.LayerChoice
    modules: list[nn.Module]
    input_name: int | str
    image: Tensor
    shape: tuple[int, ...] | None
    notices: Notices

    @property
    def space(self) -> tuple[int, ...]:
        """The spatial shape of the main input."""
        return tuple(self.image.shape[2:])


@dataclass(frozen=True, eq=False)
class _Recorded:
    """Results of the forward and the backward pass.

    Attributes:
        output: The model's output, with its graph.
        scores: The resolved target.
        evidence: Activations and gradients.
        recorder: The hooks, with the reasons why layers were left out.
        maps: The maps by key.
    """

    output: Any
    scores: TargetScores
    evidence: Evidence
    recorder: Recorder
    maps: Mapping[Any, Any]


def _prepare(
    request: Request, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> _Prepared:
    """Validate the call before the model runs, and find the layers."""
    if isinstance(model, ScriptModule):
        raise InputTypeError(
            "A TorchScript model has no layers that can be recorded: give the Python model that "
            "was scripted or traced."
        )
    choice = _layer_choice(model, request.layer)
    modules = isolation.modules_of(model)
    name, image = main_input(args, kwargs)
    shape = requested_shape(request.shape, tuple(image.shape[2:]))
    notices = Notices()
    notice_non_finite(notices, without_subclass(image.detach()), InputError(_BAD_INPUT))
    if model.training and _has_training_batch_norm(modules):
        warn(
            "The model is in training mode: its batch normalisation mixes the samples of a batch, "
            "so each map depends on the whole batch. Call model.eval() first."
        )
    return _Prepared(request, model, choice, modules, name, image, shape, notices)


def _record(
    prepared: _Prepared,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    keep_graph: bool,
    save_less: bool,
    own: Tensor | None = None,
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
        leaf = None
        if any(method.of_input for method in request.methods):
            args, kwargs, leaf = with_leaf(args, dict(kwargs), prepared.input_name, own)
        recorder = stack.enter_context(_recorder(prepared, restart=not keep_graph))
        forward_context: AbstractContextManager[None] = modes()
        if not prepared.choice.automatic and leaf is None and save_less:
            forward_context = deferred = lean.DeferredLeanBackward()
            recorder.on_graph_start = deferred.begin
        with blocks, forward_context:
            output = call(*args, **kwargs)
        recorder.stop()
        logits = outputs.select(
            output, request.output, batch=len(prepared.image), space=prepared.space
        )
        own_input.require_used(logits, leaf, own)
        warn_of_probabilities(logits)
        scores = resolution.resolve(request.target, logits, notices)
        with isolation.separate_buffers(prepared.modules if keep_graph else ()):
            evidence = gather(request, recorder, scores.values, leaf, keep_graph, notices)
        with isolation.full_precision(prepared.image.device.type):
            maps = assemble(request, evidence, scores, prepared.shape, notices)
            notice_cancelling(notices, evidence.zero_weights)
    return _Recorded(output, scores, evidence, recorder, maps)


def _finish(prepared: _Prepared, recorded: _Recorded, keep_graph: bool) -> Run:
    """Return the plain values of the run, and log which layers were left out."""
    recorder, used_layers = recorded.recorder, recorded.evidence.layers
    skipped = {
        layer: reason
        for layer in prepared.choice.modules
        if layer not in used_layers and (reason := recorder.reason(layer))
    }
    for layer, reason in skipped.items():
        _log.info("layer %r left out: %s", layer, reason)
    output = recorded.output
    return Run(
        output=output if keep_graph else isolation.detached_output(output),
        target=recorded.scores.target,
        maps=recorded.maps,
        layers=tuple(used_layers),
        skipped=skipped,
        notices=prepared.notices,
        names_run=not isinstance(recorder, AutoRecorder) or recorder.chose_last_run(used_layers[0]),
        inputs=prepared.image,
    )


def _layer_choice(model: nn.Module, layer: layers.LayerLike) -> layers.LayerChoice:
    """Resolve ``layer=`` as `layers.find`; one name is looked up without listing all layers."""
    if isinstance(layer, str) and layer not in ("auto", "full", ""):
        module: nn.Module | None = model
        for name in layer.split("."):
            module = module._modules.get(name) if module is not None else None
        if module is not None:
            return layers.LayerChoice({layer: module})
    return layers.find(model, layer)


def _recorder(prepared: _Prepared, *, restart: bool) -> Recorder:
    """Return the recorder that a request needs.

    Args:
        prepared: The call.
        restart: Whether a better candidate of the automatic layer may start the graph anew.
    """
    methods, choice = prepared.request.methods, prepared.choice
    batch, space = len(prepared.image), prepared.space
    if not any(method.of_layer for method in methods):
        return Recorder({}, batch=batch, space=space)
    if choice.automatic:
        # A graph from the input on has to stay whole.
        restart = restart and not any(method.of_input for method in methods)
        return AutoRecorder(prepared.model, batch=batch, space=space, restart=restart)
    return Recorder(choice.modules, batch=batch, space=space)


def _checkpointed_blocks(
    prepared: _Prepared,
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


def _has_training_batch_norm(modules: Iterable[nn.Module]) -> bool:
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        for module in modules
    )
