"""Maps of methods that run the model again, one sample after the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medcam.engine.activation import Activation, LayerKey
from medcam.engine.assemble import grid_of
from medcam.engine.evidence import Evidence
from medcam.engine.explained import Explained
from medcam.engine.fixed_target import fix_target
from medcam.engine.model import isolation
from medcam.engine.model.devices import autocast_dtype
from medcam.engine.prepare import Prepared
from medcam.engine.replay import Replay
from medcam.engine.replay_progress import Reported
from medcam.engine.request import Request
from medcam.errors import NoMapError, warn
from medcam.methods import Method

_SAME = {torch.float64: 1e-6, torch.float32: 5e-3}
_SAME_IN_HALF = 0.1
"""The relative difference up to which a sample that runs alone has the same score: batches of
another size may run by other kernels."""

_LARGE_RESIDUAL = 0.05
"""The part of a complete method's map that may be missing without a warning."""


@dataclass(frozen=True, eq=False)
class Rerun:
    """What running a model again takes.

    Attributes:
        prepared: The call.
        call: The function to run: the model, or its plain forward.
        args: The positional inputs.
        kwargs: The keyword inputs.
        record: Runs a call under hooks, as `medcam.engine.passes.record`.
        save_less: Whether operations save only what gradients of activations need.
        is_unchanged: Whether the model left its inputs as they were.
        axes: For each image the axes of a map of it.
    """

    prepared: Prepared
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    record: Callable[..., Any]
    save_less: bool
    is_unchanged: bool
    axes: Sequence[tuple[int, ...]]


def add_replayed(request: Request, evidence: Evidence, explained: Explained, rerun: Rerun) -> None:
    """Add the maps of the methods that run the model again to the evidence.

    Args:
        request: The request, with its methods resolved.
        evidence: The evidence of the run.
        explained: What is explained of the output.
        rerun: What running the model again takes.

    Raises:
        NoMapError: The model cannot be run again on changed inputs.
    """
    prepared = rerun.prepared
    numbers = range(len(prepared.images)) if prepared.chosen is None else [prepared.chosen]
    evidence.replayed_images = tuple(numbers)
    for number in numbers:
        _check_image(request.replayed, rerun, number)
        evidence.inputs.setdefault(number, prepared.images[number].tensor.detach())
    target = fix_target(prepared, explained.scores, explained.logits, explained.function)
    record = partial(rerun.record, save_less=rerun.save_less)
    replay = Replay(
        prepared, rerun.call, rerun.args, rerun.kwargs, target, record, number=0, sample=0
    )
    checked: set[int] = set()
    for method in request.replayed:
        note_options(method, evidence.details)
        for layer, number in _places(method, evidence):
            if number not in checked:
                _check_scores(replay, number)
                checked.add(number)
            activation = None if layer is None else evidence.recorded[layer]
            count = len(prepared.images[number].tensor)
            with Reported(request.progress, method.title, count) as reported:
                item = replace(replay, reported=reported)
                samples = _samples(item, request, number, activation)
                maps = [
                    values_of(
                        method, sample.evidence_of(method), target.values.shape[1], sample.sample,
                        evidence.details,
                    )
                    for sample in samples
                ]  # fmt: skip
            values = torch.stack(maps)
            evidence.replayed[method.name, layer, number] = values
            for column, of_target in enumerate(values.unbind(1)):
                evidence.blanks.note(method, column, layer, {}, of_target)


def _places(method: Method, evidence: Evidence) -> Iterator[tuple[LayerKey | None, int]]:
    """Yield each layer and image that a method has a map of."""
    if method.of_layer:
        for layer in evidence.layers:
            yield layer, layer[1]
        return
    for number in evidence.replayed_images:
        yield None, number


def _samples(
    replay: Replay, request: Request, number: int, activation: Activation | None
) -> Iterator[Replay]:
    """Yield the replay of each sample of an image.

    Raises:
        NoMapError: The layer does not hold one picture for each sample.
    """
    image = replay.prepared.images[number].tensor
    grid = None
    if activation is not None:
        layout = activation.layout
        is_plain = tuple(layout.map_space) == tuple(layout.space) and not activation.further
        if not is_plain or activation.evidence_shape[0] != len(image):
            raise NoMapError(
                f"Layer {activation.layer!r} sees slices, views or tiles one by one, which a "
                "method that changes the image cannot follow: choose another layer, or a method "
                "that runs the model once, such as gcam."
            )
        grid = grid_of(request, activation, tuple(image.shape[2:]))
    for sample in range(len(image)):
        yield replace(replay, number=number, sample=sample, activation=activation, grid=grid)


def values_of(
    method: Method, by_name: Mapping[str, Any], count: int, sample: int, details: dict[str, Any]
) -> Tensor:
    """Return the maps of one sample, ``[targets, ...]``, and note how complete they are.

    Args:
        method: A method that runs the model again.
        by_name: The evidence of the sample.
        count: The number of targets.
        sample: The number of the sample, for messages.
        details: Where the record of an explanation is told of it.

    Raises:
        NoMapError: The method's function does not return a map of each target.
    """
    device = by_name["inputs"].device.type
    with isolation.full_precision(device):
        values = method.of(by_name)
    if len(values) != count:
        raise NoMapError(
            f"The method {method.title!r} returned the shape {list(values.shape)}; a method that "
            f"runs the model again returns the maps of all {count} target(s), [targets, ...]."
        )
    if method.total is not None:
        names = inspect.signature(method.total).parameters
        with isolation.full_precision(device):
            total = method.total(**{name: by_name[name] for name in names if name in by_name})
        _note_residual(method, sample, values, total, details)
    return values


def note_options(method: Method, details: dict[str, Any]) -> None:
    """Note the options of a method for the record, tensors by their shape."""
    plain = (bool, int, float, str, list, tuple, type(None))
    options = {
        name: value if isinstance(value, plain) else f"{type(value).__name__} {list(value.shape)}"
        for name, value in method.options.items()
        if isinstance(value, plain) or hasattr(value, "shape")
    }
    if options:
        details.setdefault("method_options", {})[method.name] = options


def _note_residual(
    method: Method, sample: int, values: Tensor, total: Tensor, details: dict[str, Any]
) -> None:
    """Note by how much a complete method's map misses its sum; warn if that is much."""
    flat = values.flatten(1).double()
    size = flat.abs().sum(1).maximum(total.double().abs())
    residual = (flat.sum(1) - total.double()).abs() / size.clamp(min=torch.finfo(size.dtype).tiny)
    largest = float(residual.max())
    known = details.setdefault("completeness_residual", {})
    known[method.name] = max(known.get(method.name, 0.0), round(largest, 6))
    if largest > _LARGE_RESIDUAL:
        warn(
            f"The {method.title} map of sample {sample} misses the change of the score that it "
            f"divides among the voxels by {largest:.0%}: take more steps= or samples=."
        )


def _check_image(methods: Sequence[Method], rerun: Rerun, number: int) -> None:
    """Raise if an image cannot be changed and run again.

    Raises:
        NoMapError: It cannot; the message says why.
    """
    image = rerun.prepared.images[number].tensor
    title, name = methods[0].title, rerun.prepared.images[number].name
    remedy = "Take a method that runs the model once, such as gcam or saliency."
    if not rerun.is_unchanged:
        reason = "the model writes to its input, so it cannot run on it again"
    elif rerun.axes[number] != tuple(range(2, image.ndim)):
        reason = "the input holds slices or views of one case, which are not changed one by one"
    elif not image.is_floating_point():
        reason = "the image holds integers: give it as floating-point numbers (.float())"
    elif len(image) != len(rerun.prepared.image):
        reason = f"input {name!r} has another number of samples than the others"
    else:
        return
    raise NoMapError(f"{title} runs the model again on changed images, but {reason}. {remedy}")


def _check_scores(replay: Replay, number: int) -> None:
    """Check that each sample, run alone, has the score that it has in the batch.

    Raises:
        NoMapError: It has another one, and the model is in evaluation mode.
    """
    values = replay.target.values
    size = values.abs().amax().clamp(min=float(replay.target.logits.abs().mean()))
    exactness = _SAME.get(replay.prepared.image.dtype, _SAME_IN_HALF)
    if autocast_dtype(replay.prepared.image.device.type) is not None:
        exactness = _SAME_IN_HALF
    for sample in range(len(values)):
        if not bool(values[sample].isfinite().all()):  # the map says so
            continue
        alone = replace(replay, number=number, sample=sample)
        score = alone.score_of(alone.image)[0]
        difference = float((score - values[sample]).abs().max() / size.clamp(min=1e-30))
        if difference <= exactness:
            continue
        text = (
            f"Sample {sample}, run again by itself, has another score than in its batch (by "
            f"{difference:.1%}), so maps of changed images would not be about this prediction."
        )
        if isolation.differs_in_training(replay.prepared.model):
            warn(f"{text} The model is in training mode: call model.eval().")
            return
        raise NoMapError(
            f"{text} Does the model draw random numbers, keep values of earlier calls, or take an "
            "input that belongs to the whole batch? Explain one sample at a time."
        )
