"""The pipeline: run the model once, capture, apply the methods, bring the maps to their size."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medcam import _state, guided, layers, lean, methods, outputs, targets
from medcam._errors import InputError, InputTypeError, MedcamWarning, NoMapError
from medcam._findings import Findings
from medcam.attention import (
    AttentionMap,
    Explanation,
    MapKey,
    ResolvedTarget,
    ShapeRequest,
    plain,
    requested_shape,
    resize,
)
from medcam.auto_layer import AutoRecorder
from medcam.capture import Activation, Recorder, as_map, gradients
from medcam.layers import LayerChoice, LayerLike
from medcam.methods import Method, MethodLike
from medcam.outputs import Selector
from medcam.targets import TargetLike

_log = logging.getLogger("medcam")

_ENDS = {
    "SoftmaxBackward0": "a softmax",
    "LogSoftmaxBackward0": "a log-softmax",
    "SigmoidBackward0": "a sigmoid",
}


@dataclass(frozen=True)
class Request:
    """What is asked of a call, checked as far as it can be before the model runs.

    The attributes are the arguments of `explain`; ``several`` says whether methods were given as
    a list, so that the maps are keyed by method too.
    """

    methods: tuple[Method, ...]
    layer: LayerLike = "auto"
    target: TargetLike = None
    output: Selector = None
    shape: ShapeRequest = "input"
    cudnn: bool = True
    several: bool = False

    @staticmethod
    def of(method: MethodLike | Iterable[MethodLike], **options: Any) -> Request:
        """A request for one method or several."""
        if isinstance(method, (str, Method)):
            return Request((methods.get(method),), **options)
        if not isinstance(method, Iterable):
            raise InputTypeError(f"method={method!r} is not a method, nor a list of methods.")
        chosen = tuple(methods.get(name) for name in method)
        if not chosen:
            raise InputError(f"No method was given: choose from {', '.join(methods.METHODS)}.")
        return Request(chosen, several=True, **options)

    @property
    def evidence(self) -> frozenset[str]:
        """All the evidence that the methods need."""
        return frozenset().union(*(method.evidence for method in self.methods))


def explain(
    model: nn.Module,
    inputs: Any = None,
    *args: Any,
    method: MethodLike | Iterable[MethodLike] = "gcam",
    layer: LayerLike = "auto",
    target: TargetLike = None,
    output: Selector = None,
    shape: ShapeRequest = "input",
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
    request = Request.of(method, layer=layer, target=target, output=output, shape=shape)
    if isinstance(inputs, tuple):
        args = (*inputs, *args)
    elif inputs is not None:
        args = (inputs, *args)
    model = layers.unwrap(model)
    return run(request, model, model, args, kwargs)


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
        if keep_graph or not save_less or not lean.is_to_blame(error):
            raise
        warnings.warn(
            f"The memory-saving backward pass does not fit this model ({error}); the call was "
            "repeated with PyTorch's own. Please report it.",
            MedcamWarning,
            stacklevel=3,
        )
        return _run(request, model, call, args, kwargs, keep_graph, False)


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
    choice = layers.find(model, request.layer)
    name, given = _main_input(args, kwargs)
    batch, space = given.shape[0], tuple(given.shape[2:])
    shape = requested_shape(request.shape, space)
    findings = Findings()
    findings.add(
        ~plain(given.detach()).isfinite().flatten(1).all(1),
        InputError(
            "The input holds NaN or infinite values, so its maps would too: clean it first."
        ),
    )
    if model.training and _batch_norms(model):
        warnings.warn(
            "The model is in training mode: its batch normalisation mixes the samples of a batch, "
            "so each map depends on the whole batch. Call model.eval() first.",
            MedcamWarning,
            stacklevel=3,
        )
    with ExitStack() as stack:
        stack.enter_context(_state.cudnn(request.cudnn))
        stack.enter_context(_state.eager(model))
        if not keep_graph:
            stack.enter_context(_state.lean(model, save_less=save_less))
            args, kwargs = _state.detached_inputs((args, dict(kwargs)))
        leaf = None
        if any(method.of_input for method in request.methods):
            args, kwargs, leaf = _with_leaf(args, dict(kwargs), name)
        recorder = stack.enter_context(
            _recorder(request, model, choice, batch, space, restart=not keep_graph)
        )
        output = call(*args, **kwargs)
        recorder.stop()
        logits = outputs.select(output, request.output, batch=batch, space=space)
        _warn_of_squashing(logits, request)
        scores = targets.resolve(request.target, logits, findings)
        found = _evidence(request, recorder, scores.values, leaf, keep_graph)
        with torch.autocast(given.device.type, enabled=False):  # sums stay in float32
            maps = _maps(request, found, scores.target, shape, findings)
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
    )


# ------------------------------------------------------------------------------------- inputs


def _main_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int | str, Tensor]:
    """The input that the maps lie on: the first floating-point tensor with spatial axes."""
    given: dict[int | str, Any] = dict(enumerate(args))
    given.update(kwargs)
    floating = {
        name: value
        for name, value in given.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    for name, value in floating.items():
        if value.ndim in (4, 5):
            if 0 in value.shape:
                raise InputError(f"The input has shape {list(value.shape)}: it is empty.")
            return name, value
    shapes = [f"{name!r}: {list(value.shape)}" for name, value in floating.items()]
    integer = [
        name
        for name, value in given.items()
        if isinstance(value, Tensor) and value.ndim in (4, 5) and name not in floating
    ]
    remedy = ""
    if integer:
        remedy = f" Input {integer[0]!r} holds integers: convert it with .float()."
    elif any(value.ndim in (2, 3) for value in floating.values()):
        remedy = " If the batch axis is missing, add it: x[None]."
    raise InputError(
        "No input has the shape [batch, channels, *space] with 2 or 3 spatial axes; given: "
        f"{', '.join(shapes) or 'no floating-point tensor'}.{remedy}"
    )


def _with_leaf(
    args: tuple[Any, ...], kwargs: dict[str, Any], name: int | str
) -> tuple[tuple[Any, ...], dict[str, Any], Tensor]:
    """The inputs with the main one made differentiable; the user's tensor keeps its flags."""
    given = args[name] if isinstance(name, int) else kwargs[name]
    if given.requires_grad:
        leaf = given
    else:
        leaf = (given.clone() if given.is_inference() else given).detach().requires_grad_()
    passed = leaf.clone()
    if isinstance(name, int):
        return (*args[:name], passed, *args[name + 1 :]), kwargs, leaf
    return args, {**kwargs, name: passed}, leaf


def _batch_norms(model: nn.Module) -> bool:
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        for module in model.modules()
    )


def _warn_of_squashing(logits: Tensor, request: Request) -> None:
    ends = _ENDS.get(logits.grad_fn.name()) if logits.grad_fn is not None else None
    if ends is not None:
        warnings.warn(
            f"The model ends in {ends}: its gradient vanishes where the model is sure, and maps "
            "of probabilities mix the classes. Explain the logits before it: remove the last "
            "layer, or choose the logits with output= if the model returns them.",
            MedcamWarning,
            stacklevel=4,
        )


# ------------------------------------------------------------------------------------ evidence


def _recorder(
    request: Request,
    model: nn.Module,
    choice: LayerChoice,
    batch: int,
    space: tuple[int, ...],
    *,
    restart: bool,
) -> Recorder:
    if not any(method.of_layer for method in request.methods):
        return Recorder({}, batch=batch, space=space, restart=restart)
    if choice.automatic:
        # A graph from the input on has to stay whole.
        from_input = any(method.of_input for method in request.methods)
        return AutoRecorder(model, batch=batch, space=space, restart=restart and not from_input)
    return Recorder(choice.modules, batch=batch, space=space, restart=restart)


@dataclass(eq=False)
class _Evidence:
    """What one run yielded.

    Attributes:
        activations: By layer.
        gradients: By target, then by layer.
        inputs: The main input.
        input_gradients: By target.
        guided_gradients: By target.
    """

    activations: dict[str, Tensor]
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    inputs: Tensor | None = None
    input_gradients: list[Tensor] = field(default_factory=list)
    guided_gradients: list[Tensor] = field(default_factory=list)

    @property
    def layers(self) -> list[str]:
        return list(self.activations)

    def of(self, method: Method, target: int, layer: str | None) -> dict[str, Any]:
        """The arguments of a method."""
        known: dict[str, Any] = {"inputs": self.inputs}
        if layer is not None:
            known["activations"] = self.activations[layer]
            if self.gradients:
                known["gradients"] = self.gradients[target][layer]
        if self.input_gradients:
            known["input_gradients"] = self.input_gradients[target]
        if self.guided_gradients:
            known["guided_gradients"] = self.guided_gradients[target]
        return {name: known[name] for name in method.evidence}


def _evidence(
    request: Request, recorder: Recorder, scores: Tensor, leaf: Tensor | None, keep_graph: bool
) -> _Evidence:
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
    wanted = [activation.stored for activation in of_layers]
    if "input_gradients" in needed and leaf is not None:
        wanted.append(leaf)
    rows = [
        gradients(column, wanted, retain_graph=keep_graph or guided_follows or index < last)
        for index, column in enumerate(columns)
    ]
    found = _Evidence({})
    if of_layers:
        recorded = _connected(request, recorder, recorded, rows)
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
    return found


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
    missing = [] if request.layer in ("auto", "full", None) else layers_of(request.layer)
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


def layers_of(layer: LayerLike) -> list[str]:
    """The names in a ``layer=`` that names layers."""
    return [layer] if isinstance(layer, str) else list(layer or [])


def _connected(
    request: Request,
    recorder: Recorder,
    recorded: list[Activation],
    rows: Sequence[Sequence[Tensor | None]],
) -> list[Activation]:
    """The activations that every target depends on."""
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
    if isinstance(recorder, AutoRecorder):
        recorder.activations(torch.zeros(()))  # says so, if there is no layer at all
    reasons = [
        f"{name!r}: {recorder.reason(name)}"
        for name in (layers_of(request.layer) if request.layer != "auto" else [])
        if recorder.reason(name)
    ]
    return (
        "The output does not depend on "
        + (f"layer {request.layer!r}" if reasons or request.layer != "auto" else "any layer")
        + (f" ({'; '.join(reasons)})" if reasons else "")
        + ". Does the model's forward run under no_grad, or detach, or return integers? Did the "
        "layer run? Choose another layer=, or another tensor with output=."
    )


# ---------------------------------------------------------------------------------------- maps


def _maps(
    request: Request,
    evidence: _Evidence,
    target: ResolvedTarget,
    shape: tuple[int, ...] | None,
    findings: Findings,
) -> dict[MapKey, AttentionMap]:
    count = max(
        len(evidence.gradients), len(evidence.input_gradients), len(evidence.guided_gradients), 1
    )
    maps: dict[MapKey, AttentionMap] = {}
    for method, layer in _pairs(request, evidence):
        per_target = [method.function(**evidence.of(method, t, layer)) for t in range(count)]
        values, channels = torch.stack(per_target, 1), None
        if method.of_input:
            values, channels = _over_channels(method, values)
        where = "the input" if layer is None else f"layer {layer!r}"
        findings.add(
            ~values.isfinite().flatten(1).all(1),
            NoMapError(
                f"The {method.title} map of {where} holds NaN or infinite values. Do the model's "
                "activations or logits overflow? Try float32, or look at explanation.output."
            ),
        )
        if shape is not None:
            values = resize(values, shape)
            if channels is not None and tuple(channels.shape[3:]) != shape:
                channels = resize(channels.flatten(1, 2), shape).reshape(
                    *channels.shape[:3], *shape
                )
        key: MapKey = (method.name, layer) if request.several else layer
        maps[key] = AttentionMap(
            values, method.name, layer, target, method.signed, method.positive_part, channels
        )
    return maps


def _pairs(request: Request, evidence: _Evidence) -> Iterator[tuple[Method, str | None]]:
    for method in request.methods:
        if method.of_layer:
            for layer in evidence.layers:
                yield method, layer
        else:
            yield method, None


def _over_channels(method: Method, values: Tensor) -> tuple[Tensor, Tensor]:
    """The map reduced over the input's channels, and with its channels as it was."""
    if method.reduction == "magnitude":
        return values.abs().amax(2), values
    largest = values.abs().argmax(2, keepdim=True)
    return values.gather(2, largest)[:, :, 0], values
