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

import difflib
import logging
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from medcam import scores
from medcam._findings import Findings
from medcam.attention import ResolvedTarget
from medcam.errors import InputTypeError, TargetError
from medcam.scores import Scores

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
class ClassTarget:
    """A target of this module; make one with `class_score`, `classes`, `best`, `region`, ...

    Attributes:
        description: In words.
        score: From the logits and the findings of the call to the scores.
    """

    description: str
    score: Callable[[Tensor, Findings], Scores] = field(repr=False)


TargetLike = (
    None
    | SupportsIndex
    | str
    | Sequence[SupportsIndex]
    | np.ndarray
    | Tensor
    | ClassTarget
    | Callable[[Tensor], Tensor]
)  # ------------------------------------------------------------------------------- public targets


def class_score(k: int) -> ClassTarget:
    """The logit of channel ``k``; in a segmentation its mean over the whole image.

    Unlike an integer target it never looks at what was predicted: this is what the original
    M3d-CAM explained for ``label=k``.

    >>> class_score(2).description
    'the logit of channel 2, over the whole output'
    """
    return ClassTarget(
        f"the logit of channel {k}, over the whole output", partial(_class_score, k=k)
    )


def classes(*labels: int) -> ClassTarget:
    """One map for each of several classes, from one forward pass.

    >>> classes(1, 3).description
    'classes 1, 3'
    """
    if not labels:
        raise TargetError("classes() needs at least one class, e.g. targets.classes(1, 2).")
    text = f"classes {', '.join(str(label) for label in labels)}"
    return ClassTarget(text, partial(_of_classes, labels=labels, text=text))


def best() -> ClassTarget:
    """The class of each sample that matters most.

    Classification: the predicted class. Segmentation: the foreground class with the most
    predicted voxels, over these voxels.
    """
    return ClassTarget("the best class of each sample", scores.best)


def region(mask: Shaped[Tensor, "*space"], k: int) -> ClassTarget:
    """The mean logit of class ``k`` inside a region, e.g. one lesion.

    Args:
        mask: The region, 0/1 or boolean, ``[*space]`` or ``[batch, *space]`` (a channel axis of
            1 may stand between), on the grid of the model's output.
        k: The class.
    """
    return ClassTarget(f"class {k} inside the given region", partial(_region, mask=mask, k=k))


def voxel(index: Sequence[int], k: int) -> ClassTarget:
    """The logit of class ``k`` at one voxel of the output.

    Args:
        index: The voxel's index along each spatial axis of the output.
        k: The class.
    """
    place = tuple(int(i) for i in index)

    return ClassTarget(f"class {k} at voxel {place}", partial(_voxel, place=place, k=k))


def where(predicate: Callable[[Tensor], Tensor], k: int | None = None) -> ClassTarget:
    """The mean logit over the voxels that a predicate picks.

    Args:
        predicate: From the output ``[batch, classes, *space]`` to a boolean mask
            ``[batch, *space]``, or ``[batch, classes, *space]`` to pick single logits.
        k: The class whose logit is averaged; None takes each voxel's predicted class.
    """
    text = "the voxels picked by a predicate"

    return ClassTarget(text, partial(_where, predicate=predicate, k=k, text=text))


# --------------------------------------------------------------------------------- resolution


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
        result = scores.custom(target, logits, findings)
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
        result = _named(target).score(logits, findings)
    _log.info("explained: %s", result.target.description)
    return result


def _class_score(logits: Tensor, findings: Findings, k: int) -> Scores:
    channel = scores.channel_in(k, logits.shape[1])
    values = scores.wide(logits[:, channel : channel + 1]).flatten(1).mean(1, keepdim=True)
    where_ = torch.full((len(logits), 1), logits[0, 0].numel(), device=logits.device)
    target = ResolvedTarget(
        f"the logit of channel {channel}, over the whole output",
        scores.task_of(logits),
        torch.full_like(where_, channel),
        where_ if logits.ndim > 2 else None,
    )
    return Scores(target, values)


def _region(logits: Tensor, findings: Findings, mask: Tensor, k: int) -> Scores:
    views = scores.two_sided(logits)
    label = scores.label_in(k, views.shape[1])
    inside = scores.region_mask(mask, views)
    target = ResolvedTarget(
        f"class {label} inside the given region",
        "segmentation",
        *scores.labels_of(inside, label),
    )
    findings.add(~inside.flatten(1).any(1), scores.EMPTY)
    return Scores(target, scores.mean_over(views[:, label], inside)[:, None])


def _voxel(logits: Tensor, findings: Findings, place: tuple[int, ...], k: int) -> Scores:
    views = scores.two_sided(logits)
    space = tuple(views.shape[2:])
    if len(place) != len(space) or any(not -n <= i < n for i, n in zip(place, space, strict=False)):
        raise TargetError(f"Voxel {place} is not in the output, whose shape is {space}.")
    label = scores.label_in(k, views.shape[1])
    at: tuple[Any, ...] = (..., *place)
    values = scores.wide(views[:, label][at])[:, None]
    full = torch.full(values.shape, label, device=logits.device)
    text = f"class {label} at voxel {place}"
    return Scores(ResolvedTarget(text, "segmentation", full, torch.ones_like(full)), values)


def _where(
    logits: Tensor,
    findings: Findings,
    predicate: Callable[[Tensor], Tensor],
    k: int | None,
    text: str,
) -> Scores:
    with torch.no_grad():
        picked = predicate(logits.detach())
    if not isinstance(picked, Tensor) or picked.dtype != torch.bool:
        raise TargetError(
            f"The predicate returned {scores.what(picked)}; it has to return a boolean mask "
            "[batch, *space] or [batch, classes, *space]."
        )
    return scores.masked(logits, picked, k, text, findings)


def _is_whole(k: Any) -> bool:
    """Whether something is an integer of any kind, but no boolean."""
    if isinstance(k, (bool, np.bool_)) or not hasattr(k, "__index__"):
        return False
    return not isinstance(k, Tensor) or (k.numel() == 1 and not k.is_floating_point())


def checked(target: TargetLike) -> TargetLike:
    """The target, if it can be one for some output.

    Raises:
        TargetError: It is a word that is not known.
        InputTypeError: It is of a kind that is no target.
    """
    if not callable(target) or isinstance(target, ClassTarget):
        _named(target)
    return target


def _of_classes(logits: Tensor, findings: Findings, labels: Sequence[int], text: str) -> Scores:
    return scores.of_classes(logits, labels, text, findings)


def _per_sample(logits: Tensor, findings: Findings, labels: Sequence[int]) -> Scores:
    return scores.per_sample(logits, labels, findings)


def _named(target: TargetLike) -> ClassTarget:
    if isinstance(target, ClassTarget):
        return target
    if target is None:
        return ClassTarget("the prediction", scores.prediction)
    if isinstance(target, str):
        if target == "best":
            return best()
        if target == "all":
            return ClassTarget("every class", scores.every)
        near = difflib.get_close_matches(target, ("best", "all"), 1)
        raise TargetError(
            f"target={target!r} is not known: pass None, 'best', 'all', a class number, one class "
            "per sample, a callable, or one of medcam.targets."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    if isinstance(target, Tensor) and target.ndim == 0 and not target.is_floating_point():
        target = int(target)
    if isinstance(target, int) and not isinstance(target, bool):
        return classes(target)
    if isinstance(target, Tensor) and target.ndim == 1 and not target.is_floating_point():
        target = target.tolist()
    if hasattr(target, "tolist"):
        target = target.tolist()
        if isinstance(target, int):
            return classes(target)
    if isinstance(target, (list, tuple)) and all(_is_whole(k) for k in target):
        per_sample = [operator.index(k) for k in target]
        return ClassTarget(
            "one class per sample",
            partial(_per_sample, labels=per_sample),
        )
    raise InputTypeError(
        f"target={scores.what(target)} is not a target: pass None, 'best', 'all', a class number, "
        "one class per sample (integers), a callable, or one of medcam.targets."
    )
