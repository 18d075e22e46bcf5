"""Contrast of targets: what speaks for one class rather than for another."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medcam.engine.notices import Notices
from medcam.engine.target import scores
from medcam.engine.target.arguments import checked_label, describe_value
from medcam.engine.target.scores import TargetScores
from medcam.engine.target.targets import ClassTarget
from medcam.errors import TargetError
from medcam.maps import ResolvedTarget

Contrasted = int | ClassTarget
"""A class, or a target of `medcam.targets`."""


def contrast(a: Contrasted, against: Contrasted | Sequence[int], gamma: float = 1.0) -> ClassTarget:
    """Return the target of a score minus another one: why class ``a`` rather than ``against``.

    ``y = y_a - γ y_b``, and for several classes b ``y_a - γ mean_b y_b``. With any method of the
    Grad-CAM family this is Finer-CAM (Zhang et al., CVPR 2025, arXiv 2501.11309), whose examples
    use γ from 0 (a plain map of ``a``) to 1. Features that both classes share cancel.

    In a segmentation both logits are averaged over the same voxels, those predicted as ``a``. The
    paper has no segmentations; it rectifies the map of each b before it averages them, here the
    scores are averaged.

    Args:
        a: The class, or a target of `medcam.targets` such as a region.
        against: Another class, several, or another target.
        gamma: The factor γ of the other score, not negative.

    Raises:
        TargetError: A class is no whole number, ``against`` is empty or holds ``a``, or ``gamma``
            is negative or not finite.

    Example:
        >>> contrast(1, against=0).description
        'class 1 against class 0'
        >>> contrast(2, against=[0, 1], gamma=0.6).description
        'class 2 against 0.6 times the mean of classes 0, 1'
    """
    if not 0 <= gamma < float("inf"):
        raise TargetError(f"gamma={gamma!r} has to be a finite number from 0 on.")
    if isinstance(a, ClassTarget) or isinstance(against, ClassTarget):
        return _of_targets(a, against, gamma)
    label = _class_of(a, "a")
    others = [against] if not isinstance(against, Sequence) else list(against)
    others = [_class_of(other, "against") for other in others]
    if not others or label in others:
        raise TargetError(
            f"contrast(a={label}, against={against!r}): give at least one class other than {label}."
        )
    listed = ", ".join(map(str, others))
    named = f"class {listed}" if len(others) == 1 else f"the mean of classes {listed}"
    text = f"class {label} against {_factor(gamma)}{named}"
    score = partial(_score_classes, label=label, others=others, gamma=gamma, text=text)
    return ClassTarget(text, score)


def _of_targets(a: Contrasted, against: object, gamma: float) -> ClassTarget:
    """Return the contrast of two targets, each of which may be a class."""
    first, second = (_as_target(item, name) for item, name in ((a, "a"), (against, "against")))
    text = f"{first.description} against {_factor(gamma)}{second.description}"
    return ClassTarget(
        text,
        partial(_score_targets, first=first, second=second, gamma=gamma, text=text),
        reads_output=first.reads_output or second.reads_output,
    )


def _as_target(target: object, name: str) -> ClassTarget:
    """Return a class as a target."""
    if isinstance(target, ClassTarget):
        return target
    label = _class_of(target, name)
    score = partial(_score_class, label=label)
    return ClassTarget(f"class {label}", score)


def _class_of(label: object, name: str) -> int:
    """Return a class as a plain number.

    Raises:
        TargetError: It is no whole number.
    """
    if isinstance(label, bool) or not hasattr(label, "__index__"):
        raise TargetError(
            f"contrast({name}={describe_value(label)}): give a class number, or a target of "
            "medcam.targets; several classes are possible for against= only."
        )
    return operator.index(label)


def _factor(gamma: float) -> str:
    """Return γ in words; nothing for 1."""
    return "" if gamma == 1 else f"{gamma:g} times "


def _score_class(logits: Tensor, notices: Notices, label: int) -> TargetScores:
    """Score a class as ``target=label`` does."""
    return scores.score_classes(logits, [label], f"class {label}", notices)


def _score_classes(
    logits: Tensor,
    notices: Notices,
    label: int,
    others: Sequence[int],
    gamma: float,
    text: str,
) -> TargetScores:
    """Score a class against others, in a segmentation over the voxels predicted as this class."""
    class_logits = scores.two_class_logits(logits)
    count = class_logits.shape[1]
    labels = [checked_label(k, count) for k in (label, *others)]
    wide = scores.at_least_float32(class_logits)
    rest = torch.stack([wide[:, k] for k in labels[1:]]).mean(0)
    difference = wide[:, label] - gamma * rest
    per_sample = class_logits.new_full((len(class_logits), 1), label, dtype=torch.long)
    if logits.ndim == 2:
        target = ResolvedTarget(text, "classification", per_sample)
        return TargetScores(target, difference[:, None])
    scores.notice_overlap(logits, notices)
    inside, is_empty = _predicted_as(class_logits, label)
    notices.add(is_empty, scores.NOT_PREDICTED)
    voxels = inside.flatten(1).sum(1, keepdim=True)
    text = f"{text}, over the voxels predicted as class {label}"
    target = ResolvedTarget(text, "segmentation", per_sample, voxels)
    return TargetScores(target, scores.mean_inside(difference, inside)[:, None])


def _predicted_as(
    class_logits: Float[Tensor, "batch classes *space"], label: int
) -> tuple[Bool[Tensor, "batch *space"], Bool[Tensor, " batch"]]:
    """Return where a class is predicted, everywhere if it is nowhere; and where it is nowhere."""
    with torch.no_grad():
        inside = class_logits.argmax(1) == label
        is_empty = ~inside.flatten(1).any(1)
        return inside | scores.with_space_axes(is_empty, inside), is_empty


def _score_targets(
    logits: Tensor,
    notices: Notices,
    first: ClassTarget,
    second: ClassTarget,
    gamma: float,
    text: str,
) -> TargetScores:
    """Score a target against another one.

    Raises:
        TargetError: One of them has several scores.
    """
    of_first, of_second = first.score(logits, notices), second.score(logits, notices)
    if of_first.values.shape[1] != 1 or of_second.values.shape[1] != 1:
        raise TargetError(
            f"{text}: each of the two has to be one score, but they are "
            f"{of_first.values.shape[1]} and {of_second.values.shape[1]}: give two targets of one "
            "class each."
        )
    target = ResolvedTarget(
        text, of_first.target.task, of_first.target.classes, of_first.target.voxels,
        is_part=of_first.target.is_part or of_second.target.is_part,
        regions=of_first.target.regions and of_second.target.regions,
    )  # fmt: skip
    return TargetScores(target, of_first.values - gamma * of_second.values)
