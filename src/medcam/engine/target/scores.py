"""Scores of logits: one number per sample and target, attached to the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medcam.engine.notices import Notices
from medcam.engine.target.arguments import checked_label, describe_value, name_of
from medcam.errors import TargetError
from medcam.maps import ResolvedTarget


@dataclass(frozen=True, eq=False)
class TargetScores:
    """Scores of a target.

    Attributes:
        target: The resolved target.
        values: The scores, attached to the model's graph.
    """

    target: ResolvedTarget
    values: Float[Tensor, "batch targets"]


EMPTY_TARGET = (
    "The target is empty for sample(s) {samples}: no voxel is in it, so the map is zero there."
)
_NO_FOREGROUND = (
    "No foreground is predicted in sample(s) {samples}: the map explains the predicted background "
    "there. Pass target=k to explain a class of your choice."
)
_ONE_OUTPUT = (
    "The one output is read as the logit of two classes, and is negative in sample(s) {samples}: "
    "the map shows what speaks for class 0 there, that is for a low value. For a regression use "
    "target=medcam.targets.value(0)."
)
_OVERLAP = (
    "Two channels are positive in many voxels of sample(s) {samples}, and none in many others: if "
    "the channels are regions that may overlap (a sigmoid for each), they are not read rightly, as "
    "classes that exclude each other. Use target=medcam.targets.region_class(k); for classes, "
    "target=medcam.targets.classes(k)."
)
_MANY = 0.1
NOT_PREDICTED = (
    "A requested class is nowhere predicted in sample(s) {samples}: its map explains the "
    "class's mean logit over the whole image there."
)


def score_prediction(logits: Tensor, notices: Notices) -> TargetScores:
    """Score the predicted class, or in a segmentation the predicted foreground."""
    class_logits = two_class_logits(logits)
    with torch.no_grad():
        predicted = class_logits.argmax(1)
    if logits.ndim == 2:
        if logits.shape[1] == 1:
            notices.add(logits[:, 0].detach() < 0, _ONE_OUTPUT)
        return _score_labels(class_logits, predicted[:, None], "the predicted class", notices)
    notice_overlap(logits, notices)
    inside = predicted != 0
    is_empty = ~inside.flatten(1).any(1)
    notices.add(is_empty, _NO_FOREGROUND)
    inside = inside | with_space_axes(is_empty, inside)
    chosen = class_logits.gather(1, predicted[:, None])[:, 0]
    target = ResolvedTarget(
        "the predicted foreground", "segmentation", None, inside.flatten(1).sum(1, keepdim=True)
    )
    return TargetScores(target, mean_inside(chosen, inside)[:, None])


@torch.no_grad()
def notice_overlap(logits: Tensor, notices: Notices) -> None:
    """Add a warning for samples whose channels look like regions that overlap, not like classes.

    Of classes that exclude each other one has a positive logit almost everywhere, as a rule. Of
    regions, none has outside, and several have inside.
    """
    if logits.shape[1] < 2:
        return
    count = (logits > 0).sum(1).flatten(1)
    none, several = (count == 0).float().mean(1), (count > 1).sum(1)
    overlap = several / (count > 0).sum(1).clamp(min=1)
    notices.add((none > _MANY) & (overlap > _MANY), _OVERLAP)


def score_best_class(logits: Tensor, notices: Notices) -> TargetScores:
    """Score the predicted class, or in a segmentation the largest predicted foreground class."""
    class_logits = two_class_logits(logits)
    with torch.no_grad():
        predicted = class_logits.argmax(1)
    if logits.ndim == 2:
        return _score_labels(class_logits, predicted[:, None], "the predicted class", notices)
    notice_overlap(logits, notices)
    counts = torch.zeros(class_logits.shape[:2], dtype=torch.long, device=class_logits.device)
    flat = predicted.flatten(1)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    most, label = counts[:, 1:].max(1)
    notices.add(most == 0, _NO_FOREGROUND)
    label = torch.where(most > 0, label + 1, 0)
    text = "the foreground class with the most predicted voxels"
    return _score_labels(class_logits, label[:, None], text, notices)


def score_every_class(logits: Tensor, notices: Notices) -> TargetScores:
    """Score each class of the output."""
    if logits.ndim > 2:
        notice_overlap(logits, notices)
    class_logits = two_class_logits(logits)
    labels = torch.arange(class_logits.shape[1], device=class_logits.device)
    return _score_labels(class_logits, labels.expand(len(class_logits), -1), "every class", notices)


def score_classes(
    logits: Tensor, labels: Sequence[int], text: str, notices: Notices
) -> TargetScores:
    """Score several classes, the same for every sample.

    Args:
        logits: The logits.
        labels: The classes.
        text: The description of several classes.
        notices: Receives a warning for classes that are not predicted.
    """
    class_logits = two_class_logits(logits)
    checked = [checked_label(label, class_logits.shape[1]) for label in labels]
    # filled on the device: a tensor made from a list would be a synchronising copy
    columns = [class_logits.new_full((len(class_logits),), k, dtype=torch.long) for k in checked]
    per_sample = torch.stack(columns, 1)
    text = text if len(labels) > 1 else f"class {labels[0]}"
    return _score_labels(class_logits, per_sample, text, notices)


def score_class_per_sample(logits: Tensor, labels: Sequence[int], notices: Notices) -> TargetScores:
    """Score one class for each sample.

    Raises:
        TargetError: There is not one class for each sample, or a class does not exist.
    """
    if len(labels) != len(logits):
        raise TargetError(
            f"{len(labels)} classes were given for a batch of {len(logits)}: give one class per "
            "sample, or a single class for all. For several classes of each sample use "
            "medcam.targets.classes(...)."
        )
    class_logits = two_class_logits(logits)
    checked = [checked_label(label, class_logits.shape[1]) for label in labels]
    if logits.ndim > 2:
        notice_overlap(logits, notices)
    labels_of_samples = [class_logits.new_full((1,), k, dtype=torch.long) for k in checked]
    per_sample = torch.stack(labels_of_samples)
    return _score_labels(class_logits, per_sample, "one class per sample", notices)


def _score_labels(
    class_logits: Tensor, labels: Int[Tensor, "batch targets"], text: str, notices: Notices
) -> TargetScores:
    """Return each class's logit; in a segmentation its mean over the voxels predicted as it."""
    if class_logits.ndim == 2:
        return TargetScores(
            ResolvedTarget(text, "classification", labels),
            at_least_float32(class_logits.gather(1, labels)),
        )
    with torch.no_grad():
        predicted = class_logits.argmax(1)
    values, counts, not_predicted = [], [], []
    for label in labels.unbind(1):
        inside = predicted == with_space_axes(label, predicted)
        is_empty = ~inside.flatten(1).any(1)
        inside = inside | with_space_axes(is_empty, inside)
        index = with_space_axes(label, predicted).expand_as(predicted)[:, None]
        values.append(mean_inside(class_logits.gather(1, index)[:, 0], inside))
        counts.append(inside.flatten(1).sum(1))
        not_predicted.append(is_empty)
    notices.add(torch.stack(not_predicted, 1), NOT_PREDICTED)
    target = ResolvedTarget(
        f"{text}, over the voxels predicted as such", "segmentation", labels, torch.stack(counts, 1)
    )
    return TargetScores(target, torch.stack(values, 1))


def score_callable(
    function: Callable[[Tensor], Tensor], logits: Tensor, notices: Notices
) -> TargetScores:
    """Score by a user's function of the output, which returns scores or a boolean mask.

    Raises:
        TargetError: The function returns something else.
    """
    result = function(logits)
    batch = len(logits)
    if isinstance(result, Tensor) and result.dtype == torch.bool:
        text = f"the logits picked by {name_of(function)}"
        return score_mask(logits, result, None, text, notices)
    if isinstance(result, Tensor) and result.is_floating_point():
        if result.ndim == 0 and batch == 1:
            result = result[None]
        if result.ndim in (1, 2) and len(result) == batch:
            values = at_least_float32(result if result.ndim == 2 else result[:, None])
            text = f"the score of {name_of(function)}"
            return TargetScores(ResolvedTarget(text, task_of(logits)), values)
    raise TargetError(
        f"The target returned {describe_value(result)} for an output of shape "
        f"{list(logits.shape)}; it has to return scores [batch] = [{batch}] or [batch, targets], "
        "or a boolean mask of the output's shape."
    )


def score_mask(
    logits: Tensor, mask: Bool[Tensor, "*any"], label: int | None, text: str, notices: Notices
) -> TargetScores:
    """Score the mean of the logits inside a boolean mask.

    Args:
        logits: The logits.
        mask: The shape of the logits, or the same without the class axis.
        label: The class whose logits are averaged; None is each voxel's predicted class.
        text: The description of the target.
        notices: Receives a warning for samples whose mask is empty.

    Raises:
        TargetError: The mask has another shape.
    """
    if mask.shape == logits.shape and label is None:
        chosen = logits
    elif mask.shape == (len(logits), *logits.shape[2:]):
        class_logits = two_class_logits(logits)
        if label is not None:
            chosen = class_logits[:, checked_label(label, class_logits.shape[1])]
        else:
            with torch.no_grad():
                predicted = class_logits.argmax(1, keepdim=True)
            chosen = class_logits.gather(1, predicted)[:, 0]
    else:
        raise TargetError(
            f"The mask has shape {list(mask.shape)}, the output {list(logits.shape)}: the mask "
            "has to have the output's shape, or the same without the class axis."
        )
    counts = mask.reshape(len(mask), -1).sum(1, keepdim=True)
    notices.add(counts[:, 0] == 0, EMPTY_TARGET)
    target = ResolvedTarget(text, task_of(logits), None, counts)
    return TargetScores(target, mean_inside(chosen, mask)[:, None])


def score_of_whole_output(logits: Tensor) -> Tensor:
    """Return the mean square of each sample's logits, a score that depends on every logit.

    The sum of the logits is unsuitable: after a softmax it is always 1 and has no gradient.
    """
    return logits.flatten(1).square().mean(1)


def at_least_float32(values: Tensor) -> Tensor:
    """Return values in at least float32: half precision is too coarse for a mean over voxels."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def mean_inside(values: Tensor, inside: Bool[Tensor, "*any"]) -> Float[Tensor, " batch"]:
    """Return each sample's mean of ``values`` inside a mask; zero if the mask is empty."""
    batch = len(values)
    total = torch.where(inside, at_least_float32(values), 0.0).reshape(batch, -1).sum(1)
    return total / inside.reshape(batch, -1).sum(1).clamp(min=1)


def two_class_logits(logits: Tensor) -> Tensor:
    """Return a single channel z as the two classes (-z, +z); other logits unchanged."""
    return torch.cat([-logits, logits], 1) if logits.shape[1] == 1 else logits


def task_of(logits: Tensor) -> Literal["classification", "segmentation"]:
    """Return the task that the shape of the output implies."""
    return "segmentation" if logits.ndim > 2 else "classification"


def with_space_axes(per_sample: Tensor, like: Tensor) -> Tensor:
    """Return ``[batch]`` with trailing axes of 1, to broadcast with ``like``."""
    return per_sample.reshape(-1, *[1] * (like.ndim - 1))
