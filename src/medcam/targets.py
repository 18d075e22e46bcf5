"""What is explained: a model's output becomes one number per sample and target.

A target is any callable from the output tensor to scores ``[batch]`` or ``[batch, targets]``, or
to a boolean mask over the output. The ones built here also know which class they stand for.

In every target of a segmentation the score is the **mean** logit over a set of voxels M, which is
held constant (Seg-Grad-CAM, Vinogradova et al., arXiv 2002.11434, there with a sum: the two differ
by a factor, which only Grad-CAM++ notices). A network with a single output channel ``z`` is
treated as two classes with the logits ``-z`` (0, negative, background) and ``+z`` (1, positive,
foreground).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from medcam._errors import InputTypeError, MaskError, TargetError
from medcam._findings import Findings
from medcam.attention import ResolvedTarget

__all__ = [
    "ClassTarget",
    "ResolvedTarget",
    "TargetLike",
    "best",
    "class_score",
    "classes",
    "region",
    "resolve",
    "voxel",
    "where",
]

_log = logging.getLogger("medcam")


@dataclass(frozen=True, eq=False)
class Scores:
    """A resolved target and its scores, still attached to the model's graph."""

    target: ResolvedTarget
    values: Float[Tensor, "batch targets"]


@dataclass(frozen=True, eq=False)
class ClassTarget:
    """A target of this module; make one with `class_score`, `classes`, `best`, `region`, ...

    Attributes:
        description: In words.
        score: From the logits and the findings of the call to the scores.
    """

    description: str
    score: Callable[[Tensor, Findings], Scores] = field(repr=False)


TargetLike = None | int | str | Sequence[int] | Tensor | ClassTarget | Callable[[Tensor], Tensor]


# ------------------------------------------------------------------------------- public targets


def class_score(k: int) -> ClassTarget:
    """The logit of channel ``k``; in a segmentation its mean over the whole image.

    Unlike an integer target it never looks at what was predicted: this is what the original
    M3d-CAM explained for ``label=k``.

    >>> class_score(2).description
    'the logit of channel 2, over the whole output'
    """

    def score(logits: Tensor, findings: Findings) -> Scores:
        channel = _channel(k, logits.shape[1])
        values = _wide(logits[:, channel : channel + 1]).flatten(1).mean(1, keepdim=True)
        where_ = torch.full((len(logits), 1), logits[0, 0].numel(), device=logits.device)
        target = ResolvedTarget(
            f"the logit of channel {channel}, over the whole output",
            _task(logits),
            torch.full_like(where_, channel),
            where_ if logits.ndim > 2 else None,
        )
        return Scores(target, values)

    return ClassTarget(f"the logit of channel {k}, over the whole output", score)


def classes(*labels: int) -> ClassTarget:
    """One map for each of several classes, from one forward pass.

    >>> classes(1, 3).description
    'classes 1, 3'
    """
    if not labels:
        raise TargetError("classes() needs at least one class, e.g. targets.classes(1, 2).")
    text = f"classes {', '.join(str(label) for label in labels)}"
    return ClassTarget(text, lambda logits, findings: _classes(logits, labels, text, findings))


def best() -> ClassTarget:
    """The class of each sample that matters most.

    Classification: the predicted class. Segmentation: the foreground class with the most
    predicted voxels, over these voxels.
    """
    return ClassTarget("the best class of each sample", _best)


def region(mask: Shaped[Tensor, "*space"], k: int) -> ClassTarget:
    """The mean logit of class ``k`` inside a region, e.g. one lesion.

    Args:
        mask: The region, 0/1 or boolean, ``[*space]`` or ``[batch, *space]`` (a channel axis of
            1 may stand between), on the grid of the model's output.
        k: The class.
    """

    def score(logits: Tensor, findings: Findings) -> Scores:
        views = _two_sided(logits)
        label = _label(k, views.shape[1])
        inside = _region_mask(mask, views)
        target = ResolvedTarget(
            f"class {label} inside the given region", "segmentation", *_labels(inside, label)
        )
        findings.add(~inside.flatten(1).any(1), _EMPTY)
        return Scores(target, _mean_over(views[:, label], inside)[:, None])

    return ClassTarget(f"class {k} inside the given region", score)


def voxel(index: Sequence[int], k: int) -> ClassTarget:
    """The logit of class ``k`` at one voxel of the output.

    Args:
        index: The voxel's index along each spatial axis of the output.
        k: The class.
    """
    place = tuple(int(i) for i in index)

    def score(logits: Tensor, findings: Findings) -> Scores:
        views = _two_sided(logits)
        space = tuple(views.shape[2:])
        if len(place) != len(space) or any(
            not -n <= i < n for i, n in zip(place, space, strict=False)
        ):
            raise TargetError(f"Voxel {place} is not in the output, whose shape is {space}.")
        label = _label(k, views.shape[1])
        at: tuple[Any, ...] = (..., *place)
        values = _wide(views[:, label][at])[:, None]
        full = torch.full(values.shape, label, device=logits.device)
        text = f"class {label} at voxel {place}"
        return Scores(ResolvedTarget(text, "segmentation", full, torch.ones_like(full)), values)

    return ClassTarget(f"class {k} at voxel {place}", score)


def where(predicate: Callable[[Tensor], Tensor], k: int | None = None) -> ClassTarget:
    """The mean logit over the voxels that a predicate picks.

    Args:
        predicate: From the output ``[batch, classes, *space]`` to a boolean mask
            ``[batch, *space]``, or ``[batch, classes, *space]`` to pick single logits.
        k: The class whose logit is averaged; None takes each voxel's predicted class.
    """
    text = "the voxels picked by a predicate"

    def score(logits: Tensor, findings: Findings) -> Scores:
        with torch.no_grad():
            picked = predicate(logits.detach())
        if not isinstance(picked, Tensor) or picked.dtype != torch.bool:
            raise TargetError(
                f"The predicate returned {_what(picked)}; it has to return a boolean mask "
                "[batch, *space] or [batch, classes, *space]."
            )
        return _masked(logits, picked, k, text, findings)

    return ClassTarget(text, score)


# --------------------------------------------------------------------------------- resolution

_EMPTY = "The target is empty for sample(s) {samples}: no voxel is in it, so the map is zero there."
_NO_FOREGROUND = (
    "Nothing is predicted as foreground in sample(s) {samples}: the map explains the predicted "
    "background there. Pass target=k to explain a class of your choice."
)
_NOWHERE = (
    "A class asked for is nowhere predicted in sample(s) {samples}: its map explains the class's "
    "mean logit over the whole image there."
)


def resolve(target: TargetLike, logits: Float[Tensor, "batch *any"], findings: Findings) -> Scores:
    """Applies a target to the output tensor of a model.

    Args:
        target: None, "best", "all", a class, one class per sample, a callable, or a target of
            this module (see `medcam.explain`).
        logits: ``[batch, classes]`` or ``[batch, classes, *space]``; a missing class axis is
            read as a single class.
        findings: Where warnings go.

    Raises:
        TargetError: The target does not fit the output.
    """
    if callable(target) and not isinstance(target, ClassTarget):
        scores = _custom(target, logits, findings)
    else:
        if logits.ndim == 1:
            logits = logits[:, None]
        if logits.ndim > 2 and all(extent == 1 for extent in logits.shape[2:]):
            logits = logits.flatten(1)
        if logits.ndim == 3:
            raise TargetError(
                f"The output has shape {list(logits.shape)}, which is neither [batch, classes] nor "
                "[batch, classes, *space]: choose a tensor with output=, or pass a callable target."
            )
        scores = _named(target).score(logits, findings)
    _log.info("explained: %s", scores.target.description)
    return scores


def _named(target: TargetLike) -> ClassTarget:
    if isinstance(target, ClassTarget):
        return target
    if target is None:
        return ClassTarget("the prediction", _prediction)
    if isinstance(target, str):
        if target == "best":
            return best()
        if target == "all":
            return ClassTarget("every class", _every)
        raise TargetError(
            f"target={target!r} is not known: pass None, 'best', 'all', a class number, one class "
            "per sample, a callable, or one of medcam.targets."
        )
    if isinstance(target, Tensor) and target.ndim == 0:
        target = int(target)
    if isinstance(target, int) and not isinstance(target, bool):
        return classes(target)
    if isinstance(target, Tensor) and target.ndim == 1 and not target.is_floating_point():
        target = target.tolist()
    if hasattr(target, "tolist"):
        target = target.tolist()
        if isinstance(target, int):
            return classes(target)
    if isinstance(target, (list, tuple)) and all(isinstance(k, int) for k in target):
        per_sample = list(target)
        return ClassTarget(
            "one class per sample",
            lambda logits, findings: _per_sample(logits, per_sample, findings),
        )
    raise InputTypeError(
        f"target={_what(target)} is not a target: pass None, 'best', 'all', a class number, one "
        "class per sample (integers), a callable, or one of medcam.targets."
    )


def _prediction(logits: Tensor, findings: Findings) -> Scores:
    views = _two_sided(logits)
    with torch.no_grad():
        predicted = views.argmax(1)
    if logits.ndim == 2:
        return _of_class(views, predicted[:, None], "the predicted class", findings)
    inside = predicted != 0
    nothing = ~inside.flatten(1).any(1)
    findings.add(nothing, _NO_FOREGROUND)
    inside = inside | _over_space(nothing, inside)
    chosen = views.gather(1, predicted[:, None])[:, 0]
    target = ResolvedTarget(
        "the predicted foreground", "segmentation", None, inside.flatten(1).sum(1, keepdim=True)
    )
    return Scores(target, _mean_over(chosen, inside)[:, None])


def _best(logits: Tensor, findings: Findings) -> Scores:
    views = _two_sided(logits)
    with torch.no_grad():
        predicted = views.argmax(1)
    text = "the predicted class"
    if logits.ndim == 2:
        return _of_class(views, predicted[:, None], text, findings)
    counts = torch.zeros(views.shape[:2], dtype=torch.long, device=views.device)
    flat = predicted.flatten(1)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    most, label = counts[:, 1:].max(1)
    findings.add(most == 0, _NO_FOREGROUND)
    label = torch.where(most > 0, label + 1, 0)
    text = "the foreground class with the most predicted voxels"
    return _of_class(views, label[:, None], text, findings)


def _every(logits: Tensor, findings: Findings) -> Scores:
    views = _two_sided(logits)
    labels = torch.arange(views.shape[1], device=views.device).expand(len(views), -1)
    return _of_class(views, labels, "every class", findings)


def _classes(logits: Tensor, labels: Sequence[int], text: str, findings: Findings) -> Scores:
    views = _two_sided(logits)
    checked = [_label(label, views.shape[1]) for label in labels]
    wanted = torch.tensor(checked, device=views.device).expand(len(views), -1)
    return _of_class(views, wanted, text if len(labels) > 1 else f"class {labels[0]}", findings)


def _per_sample(logits: Tensor, labels: Sequence[int], findings: Findings) -> Scores:
    if len(labels) != len(logits):
        raise TargetError(
            f"{len(labels)} classes were given for a batch of {len(logits)}: give one class per "
            "sample, or a single class for all. For several classes of each sample use "
            "medcam.targets.classes(...)."
        )
    views = _two_sided(logits)
    checked = [_label(label, views.shape[1]) for label in labels]
    wanted = torch.tensor(checked, device=views.device)[:, None]
    return _of_class(views, wanted, "one class per sample", findings)


def _of_class(
    views: Tensor, labels: Int[Tensor, "batch targets"], text: str, findings: Findings
) -> Scores:
    """The logit of a class; in a segmentation its mean over the voxels predicted as the class."""
    if views.ndim == 2:
        return Scores(
            ResolvedTarget(text, "classification", labels), _wide(views.gather(1, labels))
        )
    with torch.no_grad():
        predicted = views.argmax(1)
    values, counts, nowhere = [], [], []
    for label in labels.unbind(1):
        inside = predicted == _over_space(label, predicted)
        empty = ~inside.flatten(1).any(1)
        inside = inside | _over_space(empty, inside)
        index = _over_space(label, predicted).expand_as(predicted)[:, None]
        values.append(_mean_over(views.gather(1, index)[:, 0], inside))
        counts.append(inside.flatten(1).sum(1))
        nowhere.append(empty)
    findings.add(torch.stack(nowhere, 1), _NOWHERE)
    target = ResolvedTarget(
        f"{text}, over the voxels predicted as such", "segmentation", labels, torch.stack(counts, 1)
    )
    return Scores(target, torch.stack(values, 1))


def _custom(function: Callable[[Tensor], Tensor], logits: Tensor, findings: Findings) -> Scores:
    result = function(logits)
    batch = len(logits)
    if isinstance(result, Tensor) and result.dtype == torch.bool:
        return _masked(logits, result, None, "the logits picked by a callable", findings)
    if isinstance(result, Tensor) and result.is_floating_point():
        if result.ndim == 0 and batch == 1:
            result = result[None]
        if result.ndim in (1, 2) and len(result) == batch:
            values = _wide(result if result.ndim == 2 else result[:, None])
            return Scores(ResolvedTarget("a callable's score", _task(logits)), values)
    raise TargetError(
        f"The target returned {_what(result)} for an output of shape {list(logits.shape)}; it has "
        f"to return scores [batch] = [{batch}] or [batch, targets], or a boolean mask of the "
        "output's shape."
    )


def _masked(
    logits: Tensor, picked: Bool[Tensor, "*any"], k: int | None, text: str, findings: Findings
) -> Scores:
    """The mean of the logits (or of one class's logits) that a boolean mask picks."""
    if picked.shape == logits.shape and k is None:
        chosen, inside = logits, picked
    elif picked.shape == (len(logits), *logits.shape[2:]):
        views, inside = _two_sided(logits), picked
        if k is not None:
            chosen = views[:, _label(k, views.shape[1])]
        else:
            with torch.no_grad():
                predicted = views.argmax(1, keepdim=True)
            chosen = views.gather(1, predicted)[:, 0]
    else:
        raise TargetError(
            f"The mask has shape {list(picked.shape)}, the output {list(logits.shape)}: the mask "
            "has to have the output's shape, or the same without the class axis."
        )
    counts = inside.flatten(1).sum(1, keepdim=True)
    findings.add(counts[:, 0] == 0, _EMPTY)
    target = ResolvedTarget(text, _task(logits), None, counts)
    return Scores(target, _mean_over(chosen, inside)[:, None])


# ------------------------------------------------------------------------------------ helpers


def _wide(values: Tensor) -> Tensor:
    """At least float32: a mean over a million voxels does not survive half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _mean_over(values: Tensor, inside: Bool[Tensor, "*any"]) -> Float[Tensor, " batch"]:
    """Each sample's mean of ``values`` where ``inside``; zero where nothing is inside."""
    picked = torch.where(inside, _wide(values), 0.0).flatten(1).sum(1)
    return picked / inside.flatten(1).sum(1).clamp(min=1)


def _two_sided(logits: Tensor) -> Tensor:
    """A single channel z as the two classes (-z, +z); anything else as it is."""
    return torch.cat([-logits, logits], 1) if logits.shape[1] == 1 else logits


def _over_space(per_sample: Tensor, like: Tensor) -> Tensor:
    """``[batch]`` with trailing axes of 1, to meet ``[batch, *space]``."""
    return per_sample.reshape(-1, *[1] * (like.ndim - 1))


def _label(k: int, count: int) -> int:
    if not 0 <= int(k) < count:
        raise TargetError(f"Class {k} does not exist: the output has the classes 0 to {count - 1}.")
    return int(k)


def _channel(k: int, count: int) -> int:
    if not 0 <= int(k) < count:
        raise TargetError(f"Channel {k} does not exist: the output has {count}, numbered from 0.")
    return int(k)


def _labels(inside: Tensor, label: int) -> tuple[Tensor, Tensor]:
    counts = inside.flatten(1).sum(1, keepdim=True)
    return torch.full_like(counts, label), counts


def _region_mask(mask: Tensor, logits: Tensor) -> Bool[Tensor, "batch *space"]:
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


def _task(logits: Tensor) -> Literal["classification", "segmentation"]:
    return "segmentation" if logits.ndim > 2 else "classification"


def _what(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {list(value.shape)}"
    return f"{type(value).__name__} {value!r:.60}"
