"""How logits become scores: one number per sample and target, still attached to the graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medcam.engine.notices import Notices
from medcam.errors import MaskError, TargetError
from medcam.maps import ResolvedTarget


@dataclass(frozen=True, eq=False)
class TargetScores:
    """A resolved target and its scores, still attached to the model's graph."""

    target: ResolvedTarget
    values: Float[Tensor, "batch targets"]


EMPTY = "The target is empty for sample(s) {samples}: no voxel is in it, so the map is zero there."
_NO_FOREGROUND = (
    "Nothing is predicted as foreground in sample(s) {samples}: the map explains the predicted "
    "background there. Pass target=k to explain a class of your choice."
)
_NOWHERE = (
    "A class asked for is nowhere predicted in sample(s) {samples}: its map explains the class's "
    "mean logit over the whole image there."
)


def prediction(logits: Tensor, notices: Notices) -> TargetScores:
    """The predicted class; in a segmentation, the predicted foreground."""
    views = two_sided(logits)
    with torch.no_grad():
        predicted = views.argmax(1)
    if logits.ndim == 2:
        return _of_class(views, predicted[:, None], "the predicted class", notices)
    inside = predicted != 0
    nothing = ~inside.flatten(1).any(1)
    notices.add(nothing, _NO_FOREGROUND)
    inside = inside | _over_space(nothing, inside)
    chosen = views.gather(1, predicted[:, None])[:, 0]
    target = ResolvedTarget(
        "the predicted foreground", "segmentation", None, inside.flatten(1).sum(1, keepdim=True)
    )
    return TargetScores(target, mean_over(chosen, inside)[:, None])


def best(logits: Tensor, notices: Notices) -> TargetScores:
    """The predicted class; in a segmentation, the largest predicted foreground class."""
    views = two_sided(logits)
    with torch.no_grad():
        predicted = views.argmax(1)
    text = "the predicted class"
    if logits.ndim == 2:
        return _of_class(views, predicted[:, None], text, notices)
    counts = torch.zeros(views.shape[:2], dtype=torch.long, device=views.device)
    flat = predicted.flatten(1)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    most, label = counts[:, 1:].max(1)
    notices.add(most == 0, _NO_FOREGROUND)
    label = torch.where(most > 0, label + 1, 0)
    text = "the foreground class with the most predicted voxels"
    return _of_class(views, label[:, None], text, notices)


def every(logits: Tensor, notices: Notices) -> TargetScores:
    """Each class."""
    views = two_sided(logits)
    labels = torch.arange(views.shape[1], device=views.device).expand(len(views), -1)
    return _of_class(views, labels, "every class", notices)


def of_classes(logits: Tensor, labels: Sequence[int], text: str, notices: Notices) -> TargetScores:
    """Given classes, the same for every sample."""
    views = two_sided(logits)
    checked = [label_in(label, views.shape[1]) for label in labels]
    wanted = torch.tensor(checked, device=views.device).expand(len(views), -1)
    return _of_class(views, wanted, text if len(labels) > 1 else f"class {labels[0]}", notices)


def per_sample(logits: Tensor, labels: Sequence[int], notices: Notices) -> TargetScores:
    """One given class for each sample."""
    if len(labels) != len(logits):
        raise TargetError(
            f"{len(labels)} classes were given for a batch of {len(logits)}: give one class per "
            "sample, or a single class for all. For several classes of each sample use "
            "medcam.targets.classes(...)."
        )
    views = two_sided(logits)
    checked = [label_in(label, views.shape[1]) for label in labels]
    wanted = torch.tensor(checked, device=views.device)[:, None]
    return _of_class(views, wanted, "one class per sample", notices)


def _of_class(
    views: Tensor, labels: Int[Tensor, "batch targets"], text: str, notices: Notices
) -> TargetScores:
    """The logit of a class; in a segmentation its mean over the voxels predicted as the class."""
    if views.ndim == 2:
        return TargetScores(
            ResolvedTarget(text, "classification", labels), wide(views.gather(1, labels))
        )
    with torch.no_grad():
        predicted = views.argmax(1)
    values, counts, nowhere = [], [], []
    for label in labels.unbind(1):
        inside = predicted == _over_space(label, predicted)
        empty = ~inside.flatten(1).any(1)
        inside = inside | _over_space(empty, inside)
        index = _over_space(label, predicted).expand_as(predicted)[:, None]
        values.append(mean_over(views.gather(1, index)[:, 0], inside))
        counts.append(inside.flatten(1).sum(1))
        nowhere.append(empty)
    notices.add(torch.stack(nowhere, 1), _NOWHERE)
    target = ResolvedTarget(
        f"{text}, over the voxels predicted as such", "segmentation", labels, torch.stack(counts, 1)
    )
    return TargetScores(target, torch.stack(values, 1))


def name_of(function: Any) -> str:
    """What a user's function is called; one without a name by the place where it is written.

    >>> name_of(max), name_of(partial(sorted, key=len))
    ('max', 'sorted')
    """
    while isinstance(function, partial):
        function = function.func
    name = str(getattr(function, "__name__", type(function).__name__))
    code = getattr(function, "__code__", None)
    if name == "<lambda>" and code is not None:
        return f"a lambda ({Path(code.co_filename).name}, line {code.co_firstlineno})"
    return name


def custom(function: Callable[[Tensor], Tensor], logits: Tensor, notices: Notices) -> TargetScores:
    """A user's function of the output: scores, or a boolean mask."""
    result = function(logits)
    batch = len(logits)
    if isinstance(result, Tensor) and result.dtype == torch.bool:
        return masked(logits, result, None, f"the logits picked by {name_of(function)}", notices)
    if isinstance(result, Tensor) and result.is_floating_point():
        if result.ndim == 0 and batch == 1:
            result = result[None]
        if result.ndim in (1, 2) and len(result) == batch:
            values = wide(result if result.ndim == 2 else result[:, None])
            text = f"the score of {name_of(function)}"
            return TargetScores(ResolvedTarget(text, task_of(logits)), values)
    raise TargetError(
        f"The target returned {what(result)} for an output of shape {list(logits.shape)}; it has "
        f"to return scores [batch] = [{batch}] or [batch, targets], or a boolean mask of the "
        "output's shape."
    )


def masked(
    logits: Tensor, picked: Bool[Tensor, "*any"], k: int | None, text: str, notices: Notices
) -> TargetScores:
    """The mean of the logits (or of one class's logits) that a boolean mask picks."""
    if picked.shape == logits.shape and k is None:
        chosen, inside = logits, picked
    elif picked.shape == (len(logits), *logits.shape[2:]):
        views, inside = two_sided(logits), picked
        if k is not None:
            chosen = views[:, label_in(k, views.shape[1])]
        else:
            with torch.no_grad():
                predicted = views.argmax(1, keepdim=True)
            chosen = views.gather(1, predicted)[:, 0]
    else:
        raise TargetError(
            f"The mask has shape {list(picked.shape)}, the output {list(logits.shape)}: the mask "
            "has to have the output's shape, or the same without the class axis."
        )
    counts = inside.reshape(len(inside), -1).sum(1, keepdim=True)
    notices.add(counts[:, 0] == 0, EMPTY)
    target = ResolvedTarget(text, task_of(logits), None, counts)
    return TargetScores(target, mean_over(chosen, inside)[:, None])


def wide(values: Tensor) -> Tensor:
    """At least float32: a mean over a million voxels does not survive half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def mean_over(values: Tensor, inside: Bool[Tensor, "*any"]) -> Float[Tensor, " batch"]:
    """Each sample's mean of ``values`` where ``inside``; zero where nothing is inside."""
    batch = len(values)
    picked = torch.where(inside, wide(values), 0.0).reshape(batch, -1).sum(1)
    return picked / inside.reshape(batch, -1).sum(1).clamp(min=1)


def two_sided(logits: Tensor) -> Tensor:
    """A single channel z as the two classes (-z, +z); anything else as it is."""
    return torch.cat([-logits, logits], 1) if logits.shape[1] == 1 else logits


def _over_space(per_sample: Tensor, like: Tensor) -> Tensor:
    """``[batch]`` with trailing axes of 1, to meet ``[batch, *space]``."""
    return per_sample.reshape(-1, *[1] * (like.ndim - 1))


def _integer(k: Any, kind: str) -> int:
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise TargetError(f"A {kind} is a whole number from 0 on, not {what(k)}.")
    return operator.index(k)


def label_in(k: int, count: int) -> int:
    """A class, checked."""
    if not 0 <= _integer(k, "class") < count:
        raise TargetError(f"Class {k} does not exist: the output has the classes 0 to {count - 1}.")
    return int(k)


def channel_in(k: int, count: int) -> int:
    """A channel, checked."""
    if not 0 <= _integer(k, "channel") < count:
        raise TargetError(f"Channel {k} does not exist: the output has {count}, numbered from 0.")
    return int(k)


def labels_of(inside: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """One class and the voxels inside, ``[batch, 1]`` each."""
    counts = inside.flatten(1).sum(1, keepdim=True)
    return torch.full_like(counts, label), counts


def region_mask(mask: Tensor, logits: Tensor) -> Bool[Tensor, "batch *space"]:
    """A region as a boolean mask ``[batch, *space]``, checked."""
    space, batch = tuple(logits.shape[2:]), len(logits)
    mask = torch.as_tensor(mask, device=logits.device)
    given = tuple(mask.shape)
    if mask.ndim == len(space) + 2 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim == len(space):
        mask = mask.expand(batch, *mask.shape)
    if not space or tuple(mask.shape) != (batch, *space):
        raise MaskError(
            f"The region has shape {given}; the output needs {space} or {(batch, *space)}."
        )
    if mask.dtype != torch.bool:
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise MaskError("The region holds values other than 0 and 1: pass e.g. `mask == 2`.")
        mask = mask.bool()
    return mask


def task_of(logits: Tensor) -> Literal["classification", "segmentation"]:
    """By the shape of the output."""
    return "segmentation" if logits.ndim > 2 else "classification"


def what(value: object) -> str:
    """A value in a few words, for error messages."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {list(value.shape)}"
    return f"{type(value).__name__} {value!r:.60}"
