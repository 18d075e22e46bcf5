"""Resolve ``target=`` (None, a word, a class, a callable or a target) to scores."""

from __future__ import annotations

import difflib
import logging
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float
from torch import Tensor

from medcam.engine.model.detections import Detections
from medcam.engine.notices import Notices, SilentNotices
from medcam.engine.target import scores
from medcam.engine.target.arguments import describe_value, name_of
from medcam.engine.target.boxes import (
    BoxTarget,
    box,
    score_detections,
    score_detections_by,
)
from medcam.engine.target.scores import TargetScores
from medcam.engine.target.targets import ClassTarget, best, region_class, regions_of
from medcam.errors import InputTypeError, TargetError

_log = logging.getLogger("medcam")

TargetLike = (
    None
    | SupportsIndex
    | str
    | Sequence[SupportsIndex]
    | np.ndarray
    | Tensor
    | ClassTarget
    | BoxTarget
    | Callable[[Tensor], Tensor]
)
"""What ``target=`` takes, see `resolve`."""


def resolve(
    target: TargetLike,
    logits: Float[Tensor, "batch *any"],
    notices: Notices,
    *,
    axes: int | None = None,
    regions: bool = False,
) -> TargetScores:
    """Return the scores of a target for the output tensor of a model.

    Args:
        target: None, "best", "all", a class, one class per sample, a callable, or one of
            `medcam.targets` (see `medcam.explain`).
        logits: ``[batch, classes]`` or ``[batch, classes, *space]``; without a class axis there
            is a single class.
        notices: Receives warnings about samples without a voxel of the target.
        axes: The number of spatial axes of the model's input. None: 2 or 3.
        regions: Whether the channels of a segmentation are regions that may overlap, as after a
            sigmoid: each is predicted where its own logit is positive.

    Raises:
        TargetError: The target does not fit the output.
    """
    if isinstance(target, BoxTarget):
        raise TargetError(
            "targets.box explains a detection, but the model returned no boxes with scores. "
            "Detectors return them in evaluation mode: call model.eval(). Choose the part of the "
            "output that holds the detections with output=."
        )
    if callable(target) and not isinstance(target, ClassTarget):
        result = scores.score_callable(target, logits, notices)
    else:
        if logits.ndim == 1:
            logits = logits[:, None]
        if logits.ndim > 2 and all(extent == 1 for extent in logits.shape[2:]):
            logits = logits.flatten(1)
        if logits.ndim == 3 and axes != 1:
            raise TargetError(
                f"The output has shape {list(logits.shape)}, which is neither [batch, classes] nor "
                "[batch, classes, *space]: choose a tensor with output=, or pass a callable target."
            )
        if regions and logits.ndim > 2 and logits.shape[1] > 1:
            target = for_regions(target)
        result = _as_target(target).score(logits, notices)
    if not isinstance(notices, SilentNotices):
        _log.info("explained: %s", result.target.description)
    return result


def resolve_detections(
    target: TargetLike, output: Any, detections: Sequence[Detections], notices: Notices
) -> TargetScores:
    """Return the scores of a target for the detections of a model.

    Args:
        target: As in `resolve`.
        output: What a callable target takes: the detections as the model returned them.
        detections: The detections in each image.
        notices: Receives a warning about scores whose gradient vanishes.

    Raises:
        TargetError: The target does not fit the detections.
    """
    if callable(target):
        result = score_detections_by(target, output, len(detections))
    else:
        result = score_detections(_as_box_target(target), detections, notices)
    _log.info("explained: %s", result.target.description)
    return result


def check_target(target: TargetLike) -> TargetLike:
    """Return a target after the checks that need no output.

    Raises:
        TargetError: The target is an unknown word.
        InputTypeError: It is of a type that is not accepted.
    """
    if isinstance(target, BoxTarget):
        return target
    if not callable(target) or isinstance(target, ClassTarget):
        _as_target(target)
    return target


def for_regions(target: TargetLike) -> TargetLike:
    """Return a target for a network whose channels are regions that may overlap.

    A class becomes `targets.region_class`, None becomes every predicted region.

    Example:
        >>> for_regions(2).description
        'region 2'
    """
    if target is None or (isinstance(target, str) and target in ("best", "all")):
        return regions_of(target or "predicted")
    if callable(target) or isinstance(target, (str, ClassTarget, BoxTarget)):
        return target
    labels = target.tolist() if hasattr(target, "tolist") else target
    if isinstance(labels, (list, tuple)):
        return regions_of([operator.index(label) for label in labels])
    return region_class(operator.index(labels))  # type: ignore[arg-type]  # checked by index


def reads_output(target: TargetLike) -> bool:
    """Return whether a target is a function of the values of the output.

    Example:
        >>> reads_output(1), reads_output(lambda output: output[:, 1])
        (False, True)
    """
    if isinstance(target, ClassTarget):
        return target.reads_output
    return callable(target) and not isinstance(target, BoxTarget)


def name_of_target(target: TargetLike) -> str:
    """Return what tells a target from others of the same model.

    Example:
        >>> name_of_target(None), name_of_target(2), name_of_target(best())
        ('None', '2', 'the best class of each sample')
    """
    if isinstance(target, (ClassTarget, BoxTarget)):
        return target.description
    return name_of(target) if callable(target) else repr(target)


def _as_box_target(target: TargetLike) -> BoxTarget:
    """Return a target of a detector: a class is the best-scored detection of this class.

    Raises:
        TargetError: The target is for another kind of output.
    """
    if isinstance(target, BoxTarget):
        return target
    if target is None or (isinstance(target, str) and target == "best"):
        return box()
    if isinstance(target, (str, ClassTarget)):
        name = repr(target) if isinstance(target, str) else target.description
        raise TargetError(
            f"The model returns detections, for which target={name} has no meaning: use "
            "medcam.targets.box(...), a class, or a callable from the detections to scores [batch]."
        )
    return box(label=target)  # type: ignore[arg-type]  # a class, or one per sample: box checks it


def _as_target(target: TargetLike) -> ClassTarget:
    """Return what is no callable as a `ClassTarget`."""
    if isinstance(target, ClassTarget):
        return target
    if target is None:
        return ClassTarget("the prediction", scores.score_prediction)
    if isinstance(target, str):
        if target == "best":
            return best()
        if target == "all":
            return ClassTarget("every class", scores.score_every_class)
        near = difflib.get_close_matches(target, ("best", "all"), 1)
        raise TargetError(
            f"target={target!r} is not known: pass None, 'best', 'all', a class number, one class "
            "per sample, a callable, or one of medcam.targets."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    if isinstance(target, Tensor) and target.ndim == 0 and not target.is_floating_point():
        target = int(target)
    if isinstance(target, int) and not isinstance(target, bool):
        return _one_class(target)
    if isinstance(target, Tensor) and target.ndim == 1 and not target.is_floating_point():
        target = target.tolist()
    if hasattr(target, "tolist"):
        target = target.tolist()
        if isinstance(target, int):
            return _one_class(target)
    if isinstance(target, (list, tuple)) and all(_is_integer(label) for label in target):
        labels = [operator.index(label) for label in target]
        return ClassTarget("one class per sample", partial(_score_class_per_sample, labels=labels))
    raise InputTypeError(
        f"target={describe_value(target)} is not a target: pass None, 'best', 'all', a class "
        "number, one class per sample (integers), a callable, or one of medcam.targets."
    )


def _one_class(label: int) -> ClassTarget:
    """Return the target of a class that was given as a number, so that regions are noticed."""

    def score(logits: Tensor, notices: Notices) -> TargetScores:
        if logits.ndim > 2:
            scores.notice_overlap(logits, notices)
        return scores.score_classes(logits, [label], f"class {label}", notices)

    return ClassTarget(f"class {label}", score)


def _score_class_per_sample(
    logits: Tensor, notices: Notices, labels: Sequence[int]
) -> TargetScores:
    """Score one class for each sample, with the arguments in the order of `ClassTarget`."""
    return scores.score_class_per_sample(logits, labels, notices)


def _is_integer(value: Any) -> bool:
    """Return whether a value is an integer of any type, but no boolean."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        return False
    return not isinstance(value, Tensor) or (value.numel() == 1 and not value.is_floating_point())
