"""The targets that users build: a class, a region, a voxel, a predicate.

In every target of a segmentation the score is the **mean** logit over a set of voxels M, which is
held constant (Seg-Grad-CAM, Vinogradova et al., arXiv 2002.11434, there with a sum: the two differ
by a factor, which only Grad-CAM++ notices). A network with a single output channel ``z`` is
treated as two classes with the logits ``-z`` (0, negative, background) and ``+z`` (1, positive,
foreground).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from medcam.engine.notices import Notices
from medcam.engine.target import scores
from medcam.engine.target.scores import TargetScores
from medcam.errors import TargetError
from medcam.maps import ResolvedTarget


@dataclass(frozen=True, eq=False)
class ClassTarget:
    """A target of this module; make one with `class_score`, `classes`, `best`, `region`, ...

    Attributes:
        description: In words.
        score: From the logits and the notices of the call to the scores.
    """

    description: str
    score: Callable[[Tensor, Notices], TargetScores] = field(repr=False)


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


def _class_score(logits: Tensor, notices: Notices, k: int) -> TargetScores:
    channel = scores.channel_in(k, logits.shape[1])
    values = scores.wide(logits[:, channel : channel + 1]).flatten(1).mean(1, keepdim=True)
    where_ = torch.full((len(logits), 1), logits[0, 0].numel(), device=logits.device)
    target = ResolvedTarget(
        f"the logit of channel {channel}, over the whole output",
        scores.task_of(logits),
        torch.full_like(where_, channel),
        where_ if logits.ndim > 2 else None,
    )
    return TargetScores(target, values)


def _region(logits: Tensor, notices: Notices, mask: Tensor, k: int) -> TargetScores:
    views = scores.two_sided(logits)
    label = scores.label_in(k, views.shape[1])
    inside = scores.region_mask(mask, views)
    target = ResolvedTarget(
        f"class {label} inside the given region",
        "segmentation",
        *scores.labels_of(inside, label),
    )
    notices.add(~inside.flatten(1).any(1), scores.EMPTY)
    return TargetScores(target, scores.mean_over(views[:, label], inside)[:, None])


def _voxel(logits: Tensor, notices: Notices, place: tuple[int, ...], k: int) -> TargetScores:
    views = scores.two_sided(logits)
    space = tuple(views.shape[2:])
    if len(place) != len(space) or any(not -n <= i < n for i, n in zip(place, space, strict=False)):
        raise TargetError(f"Voxel {place} is not in the output, whose shape is {space}.")
    label = scores.label_in(k, views.shape[1])
    at: tuple[Any, ...] = (..., *place)
    values = scores.wide(views[:, label][at])[:, None]
    full = torch.full(values.shape, label, device=logits.device)
    text = f"class {label} at voxel {place}"
    return TargetScores(ResolvedTarget(text, "segmentation", full, torch.ones_like(full)), values)


def _where(
    logits: Tensor,
    notices: Notices,
    predicate: Callable[[Tensor], Tensor],
    k: int | None,
    text: str,
) -> TargetScores:
    with torch.no_grad():
        picked = predicate(logits.detach())
    if not isinstance(picked, Tensor) or picked.dtype != torch.bool:
        raise TargetError(
            f"The predicate returned {scores.what(picked)}; it has to return a boolean mask "
            "[batch, *space] or [batch, classes, *space]."
        )
    return scores.masked(logits, picked, k, text, notices)


def _of_classes(logits: Tensor, notices: Notices, labels: Sequence[int], text: str) -> TargetScores:
    return scores.of_classes(logits, labels, text, notices)
