"""The pipeline: run the model once, capture, apply the methods, bring the maps to their size."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from medcam import _state, checkpointing, guided, layers, lean, outputs, targets
from medcam._findings import Findings
from medcam.attention import (
    AttentionMap,
    Explanation,
    MapKey,
    ModelReference,
    ShapeRequest,
    plain,
    requested_shape,
    resize,
)
from medcam.auto_layer import AutoRecorder
from medcam.errors import InputError, InputTypeError, NoMapError, warn
from medcam.evidence import Evidence, gather, recorder_for
from medcam.inputs import main_input, with_leaf
from medcam.layers import LayerLike
from medcam.methods import Method, MethodLike
from medcam.outputs import Selector
from medcam.remarks import look_for_infinity, warn_of_cancelling, warn_of_squashing
from medcam.request import Request
from medcam.scores import Scores
from medcam.targets import TargetLike

_log = logging.getLogger("medcam")

_BAD_INPUT = "The input holds NaN or infinite values, so its maps would too: clean it first."
_BAD_MAP = (
    "The {} map of {} holds NaN or infinite values. Do the model's activations or logits overflow? "
    "Try float32, or look at explanation.output."
)

_REST = ("model", "inputs", "args", "kwargs")
_OTHER_NAMES = {"backend": "method", "label": "target", "data_shape": "shape"}


def explain(
    model: nn.Module,
    inputs: Any = None,
    *args: Any,
    method: MethodLike | Iterable[MethodLike] = "gcam",
    layer: LayerLike = "auto",
    target: TargetLike = None,
    output: Selector = None,
    shape: ShapeRequest = "input",
    memory: Literal["normal", "low"] = "normal",
    **kwargs: Any,
) -> Explanation:
    """Runs a model once and says where it looked.

    The model is left as it was: its gradients, flags, buffers, hooks and modes. The prediction is
    ``explanation.output``, without a graph.

    Args:
        model: Any ``nn.Module``. Wrappers (DataParallel, torch.compile) are looked through; a
            compiled model runs eagerly.
        inputs: The model's input ``[batch, channels, *space]`` with 2 or 3 spatial axes; a tuple
            is several positional inputs. Further ``args`` and ``kwargs`` go to the model as they
            are. The maps are on the grid of the first floating-point tensor with spatial axes.
        *args: Further positional inputs of the model.
        method: One of ``medcam.methods.METHODS``, or several, which share the one forward pass:
            ``gcam``, ``gcampp``, ``gbp``, ``ggcam``, ``hirescam``, ``layercam``, ``xgradcam``,
            ``segxrescam``, ``eigencam``, ``saliency``, ``inputxgradient``.
        layer: A name from `medcam.get_layers`; several names; "full" for every layer of which a
            map can be made; or "auto" for the deepest rich features. Where a layer runs several
            times in a call, the last run that the target depends on counts.
        target: What is explained. None is the prediction: the predicted class's logit, and in a
            segmentation its mean over the predicted foreground. "best", "all", a class, one class
            per sample, a callable from the output tensor to scores ``[batch]``, or one of
            `medcam.targets`.
        output: Which tensor of the model's output holds the logits: None (automatic), an index, a
            key or attribute, or a callable.
        shape: The spatial shape of the maps: "input", None for the layer's own, or the extents.
        memory: "low" keeps of the network's blocks their inputs only and runs each again in the
            backward pass: the same maps bit for bit, for one more forward pass for each backward
            pass. It is meant for maps of the input (``gbp``, ``ggcam``, ``saliency``,
            ``inputxgradient``) of large volumes, whose graph spans the network; with
            ``layer="full"`` the activations themselves are kept all the same.
        **kwargs: Keyword inputs of the model.

    Returns:
        The explanation: ``.output``, and ``.map`` or ``.maps``.

    Raises:
        InputError: Something given does not fit; the message says what is allowed.
        NoMapError: The model ran, but no map can be made, e.g. since the target does not depend
            on the layer.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    >>> explanation = explain(net, torch.rand(3, 1, 8, 8), layer="1")
    >>> explanation.output.shape, explanation.map.values.shape
    (torch.Size([3, 2]), torch.Size([3, 1, 8, 8]))
    """
    _check_keywords(model, kwargs)
    request = Request.of(
        method, layer=layer, target=target, output=output, shape=shape, memory=memory
    )
    if isinstance(inputs, tuple):
        args = (*inputs, *args)
    elif inputs is not None:
        args = (inputs, *args)
    model = layers.unwrap(model)
    return run(request, model, model, args, kwargs)


def _check_keywords(model: nn.Module, kwargs: Iterable[str]) -> None:
    """Raises for keywords that neither `explain` nor the model's forward has."""
    if not kwargs:
        return
    theirs = inspect.signature(model.forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in theirs.values())
    ours = [name for name in inspect.signature(explain).parameters if name not in _REST]
    for given in kwargs:
        if given in theirs:
            continue
        if given in _OTHER_NAMES:
            raise InputTypeError(
                f"explain() takes {_OTHER_NAMES[given]}= where inject() takes {given}=."
            )
        if not takes_any:
            near = difflib.get_close_matches(given, [*ours, *theirs], 1)
            hint = f" Did you mean {near[0]}=?" if near else f" explain() has {', '.join(ours)}."
            raise InputTypeError(f"Neither explain() nor the model's forward has {given}=.{hint}")


def run(
    request: Request,
    model: nn.Module,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    keep_graph: bool = False,
    save_less: bool = True,
) -> Explanation:
    """`explain` for a prepared request.

    Args:
        request: What is asked.
        model: The model whose layers are looked at.
        call: What runs it: the model itself, or its plain forward.
        args: The positional inputs.
        kwargs: The keyword inputs.
        keep_graph: Whether the output keeps the graph that the caller would have had.
        save_less: Whether operations save only what is needed (`medcam.lean`). Where that fails,
            the call is repeated without, with a warning.
    """
    try:
        return _run(request, model, call, args, kwargs, keep_graph, save_less)
    except RuntimeError as error:
        if request.memory == "low" and checkpointing.is_to_blame(error):
            warn(
                "memory='low' does not fit this model, as a block gives something else when it is "
                f"run again ({error}); the call was repeated with memory='normal'."
            )
            request = dataclasses.replace(request, memory="normal")
        elif save_less and not keep_graph and lean.is_to_blame(error):
            warn(
                f"The memory-saving backward pass does not fit this model ({error}); the call was "
                "repeated with PyTorch's own. Please report it."
            )
            save_less = False
        else:
            raise
    return run(request, model, call, args, kwargs, keep_graph=keep_graph, save_less=save_less)


def _run(
    request: Request,
    model: nn.Module,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    keep_graph: bool,
    save_less: bool,
) -> Explanation:
    if isinstance(model, torch.jit.ScriptModule):
        raise InputTypeError(
            "A TorchScript model has no layers that can be looked at: give the Python model that "
            "was scripted or traced."
        )
    choice = _choice(model, request.layer)
    modules = _state.parts(model)
    name, given = main_input(args, kwargs)
    batch, space = given.shape[0], tuple(given.shape[2:])
    shape = requested_shape(request.shape, space)
    findings = Findings()
    look_for_infinity(findings, plain(given.detach()), InputError(_BAD_INPUT))
    if model.training and _batch_norms(modules):
        warn(
            "The model is in training mode: its batch normalisation mixes the samples of a batch, "
            "so each map depends on the whole batch. Call model.eval() first."
        )
    with ExitStack() as stack:
        stack.enter_context(_state.cudnn(request.cudnn))
        stack.enter_context(_state.eager(modules))
        if not keep_graph:
            stack.enter_context(_state.lean(modules))
            args, kwargs = _state.detached_inputs((args, dict(kwargs)))
        modes = partial(_modes, request, save_less and not keep_graph)
        blocks: AbstractContextManager[None] = nullcontext()
        if request.memory == "low":  # chosen before our own hooks are there
            chosen = checkpointing.chosen_blocks(layers.unwrap(model), args, kwargs, modes)
            blocks = checkpointing.checkpointed(chosen, modes)
        leaf = None
        if any(method.of_input for method in request.methods):
            args, kwargs, leaf = with_leaf(args, dict(kwargs), name)
        recorder = stack.enter_context(
            recorder_for(request, model, choice, batch, space, restart=not keep_graph)
        )
        around: AbstractContextManager[None] = modes()
        late = not choice.automatic and leaf is None
        if late and save_less and not keep_graph:
            around = from_the_layer_on = lean.FromTheLayerOn()
            recorder.on_begin = from_the_layer_on.begin
        with blocks, around:
            output = call(*args, **kwargs)
        recorder.stop()
        logits = outputs.select(output, request.output, batch=batch, space=space)
        warn_of_squashing(logits)
        scores = targets.resolve(request.target, logits, findings)
        found = gather(request, recorder, scores.values, leaf, keep_graph, findings)
        with _state.full_precision(given.device.type):
            maps = _maps(request, found, scores, shape, findings)
            warn_of_cancelling(found.weightless, findings)
    if not keep_graph:
        output = _state.detached_output(output)
    reasons = {
        layer: reason
        for layer in choice.modules
        if layer not in found.layers and (reason := recorder.reason(layer))
    }
    for layer, reason in reasons.items():
        _log.info("layer %r left out: %s", layer, reason)
    used = found.layers
    return Explanation(
        output,
        scores.target,
        None if not used else used[0] if len(used) == 1 else tuple(used),
        maps,
        reasons,
        findings,
        not isinstance(recorder, AutoRecorder) or recorder.took_last_run(used[0]),
        inputs=given,
        _model=ModelReference(model),
    )


def _choice(model: nn.Module, layer: LayerLike) -> layers.LayerChoice:
    """`layers.find`, without listing the model where one layer is named as the model names it."""
    if isinstance(layer, str) and layer not in ("auto", "full", ""):
        module: nn.Module | None = model
        for name in layer.split("."):
            module = module._modules.get(name) if module is not None else None
        if module is not None:
            return layers.LayerChoice({layer: module})
    return layers.find(model, layer)


@contextmanager
def _modes(request: Request, save_less: bool) -> Iterator[None]:
    """What the forward pass runs under."""
    with (
        guided.VisibleRectifiers() if "guided_gradients" in request.evidence else nullcontext(),
        lean.LeanBackward() if save_less else nullcontext(),
    ):
        yield


def _maps(
    request: Request,
    evidence: Evidence,
    scores: Scores,
    shape: tuple[int, ...] | None,
    findings: Findings,
) -> dict[MapKey, AttentionMap]:
    count = scores.values.shape[1]
    maps: dict[MapKey, AttentionMap] = {}
    for method, layer in _pairs(request, evidence):
        per_target = [evidence.map(method, target, layer) for target in range(count)]
        values = torch.stack(per_target, 1) if count > 1 else per_target[0][:, None]
        channels = None
        if method.of_input:
            values, channels = method.reduced(values)
        where = "the input" if layer is None else f"layer {layer!r}"
        look_for_infinity(findings, values, NoMapError(_BAD_MAP.format(method.title, where)))
        if shape is not None:
            values = resize(values, shape)
            if channels is not None and tuple(channels.shape[3:]) != shape:
                channels = resize(channels.flatten(1, 2), shape).reshape(
                    *channels.shape[:3], *shape
                )
        key: MapKey = (method.name, layer) if request.several else layer
        maps[key] = AttentionMap(
            values, method.name, layer, scores.target, method.signed, method.positive_part, channels
        )
    return maps


def _pairs(request: Request, evidence: Evidence) -> Iterator[tuple[Method, str | None]]:
    for method in request.methods:
        if method.of_layer:
            for layer in evidence.layers:
                yield method, layer
        else:
            yield method, None


def _batch_norms(modules: Iterable[nn.Module]) -> bool:
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        for module in modules
    )
