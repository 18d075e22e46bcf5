"""Targets that users build: a class, a region, a voxel, a predicate.

In a segmentation the score is the **mean** logit over a set of voxels M, which is constant in the
backward pass (Seg-Grad-CAM, Vinogradova et al., arXiv 2002.11434). The paper takes the sum; the two
differ by a factor, which changes the normalised map of Grad-CAM++ only.

A network with a single output channel ``z`` is treated as two classes with the logits ``-z`` (0,
negative, background) and ``+z`` (1, positive, foreground).
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
from medcam.engine.target import regions, scores
from medcam.engine.target.arguments import (
    checked_channel,
    checked_label,
    checked_region,
    describe_value,
)
from medcam.engine.target.scores import TargetScores
from medcam.errors import TargetError
from medcam.maps import ResolvedTarget


@dataclass(frozen=True, eq=False)
class ClassTarget:
    """A target that `class_score`, `classes`, `best`, `region`, `voxel` or `where` made.

    Attributes:
        description: The target in words.
        score: Function of the logits and the notices of the call that returns the scores.
        reads_output: Whether it depends on the values of the output, and not on logits only.
    """

    description: str
    score: Callable[[Tensor, Notices], TargetScores] = field(repr=False)
    reads_output: bool = False


def class_score(k: int) -> ClassTarget:
    """Return the target of channel ``k``'s logit; in a segmentation its mean over the whole image.

    Unlike an integer target it does not depend on the prediction. The original M3d-CAM explained
    this score for ``label=k``.

    Args:
        k: The channel.

    Example:
        >>> class_score(2).description
        'the logit of channel 2, over the whole output'
    """
    return ClassTarget(
        f"the logit of channel {k}, over the whole output", partial(_score_channel, k=k)
    )


def classes(*labels: int) -> ClassTarget:
    """Return the target of several classes: one map for each, from one forward pass.

    Args:
        *labels: The classes.

    Raises:
        TargetError: There is no class.

    Example:
        >>> classes(1, 3).description
        'classes 1, 3'
    """
    if not labels:
        raise TargetError("classes() needs at least one class, e.g. targets.classes(1, 2).")
    text = f"classes {', '.join(str(label) for label in labels)}"
    return ClassTarget(text, partial(_score_classes, labels=labels, text=text))


def best() -> ClassTarget:
    """Return the target of each sample's best class.

    Classification: the predicted class. Segmentation: the foreground class with the most
    predicted voxels, over these voxels.

    Example:
        >>> best().description
        'the best class of each sample'
    """
    return ClassTarget("the best class of each sample", scores.score_best_class)


def region(mask: Shaped[Tensor, "*space"], k: int) -> ClassTarget:
    """Return the target of class ``k``'s mean logit inside a region, e.g. one lesion.

    Args:
        mask: The region, 0/1 or boolean, ``[*space]`` or ``[batch, *space]``, optionally with a
            channel axis ``[batch, 1, *space]``, on the grid of the model's output.
        k: The class.

    Example:
        >>> region(torch.ones(8, 8), k=1).description
        'class 1 inside the given region'
    """
    return ClassTarget(f"class {k} inside the given region", partial(_score_region, mask=mask, k=k))


def voxel(index: Sequence[int], k: int) -> ClassTarget:
    """Return the target of class ``k``'s logit at one voxel of the output.

    Args:
        index: The voxel's index along each spatial axis of the output.
        k: The class.

    Example:
        >>> voxel((4, 7), k=1).description
        'class 1 at voxel (4, 7)'
    """
    index = tuple(int(position) for position in index)
    return ClassTarget(f"class {k} at voxel {index}", partial(_score_voxel, index=index, k=k))


def where(predicate: Callable[[Tensor], Tensor], k: int | None = None) -> ClassTarget:
    """Return the target of the mean logit over the voxels that a predicate picks.

    Args:
        predicate: Function of the output ``[batch, classes, *space]`` that returns a boolean mask
            ``[batch, *space]``, or ``[batch, classes, *space]`` to pick single logits.
        k: The class whose logit is averaged; None takes each voxel's predicted class.

    Example:
        >>> where(lambda logits: logits[:, 1] > 2, k=1).description
        'the voxels picked by a predicate'
    """
    text = "the voxels picked by a predicate"
    score = partial(_score_where, predicate=predicate, k=k, text=text)
    return ClassTarget(text, score, reads_output=True)


def region_class(k: int) -> ClassTarget:
    """Return the target of channel ``k`` as a region that may overlap others.

    For networks that are trained with a sigmoid for each channel, as for "whole tumour" and "core":
    the score is the mean logit of the channel over the voxels where it is positive, whatever the
    other channels are. An integer target reads the channels as classes that exclude each other.

    Args:
        k: The channel.

    Example:
        >>> region_class(1).description
        'region 1'
    """
    return ClassTarget(f"region {k}", partial(regions.score_regions, labels=[k]))


def value(k: int = 0) -> ClassTarget:
    """Return the target of output ``k``'s value, for a regression: why it is large.

    A single output is otherwise read as the logit of two classes, so that a negative value is
    explained with the opposite sign.

    Args:
        k: The index of the output ``[batch, outputs]``.

    Example:
        >>> value().description
        'the value of output 0'
    """
    return ClassTarget(f"the value of output {k}", partial(_score_value, k=k), reads_output=True)


def regions_of(chosen: str | Sequence[int]) -> ClassTarget:
    """Return the target of several regions.

    Args:
        chosen: "predicted": all that are predicted, as one target; "best": that of the most voxels;
            "all": one target for each; or one region for each sample.
    """
    if isinstance(chosen, str):
        text = {"predicted": "the predicted regions", "best": "the largest predicted region"}
        described = text.get(chosen, "every region")
        return ClassTarget(described, partial(regions.score_chosen_regions, chosen=chosen))
    score = partial(regions.score_region_per_sample, labels=chosen)
    return ClassTarget("one region per sample", score)


def _score_channel(logits: Tensor, notices: Notices, k: int) -> TargetScores:
    """Score `class_score`."""
    channel = checked_channel(k, logits.shape[1])
    channel_logits = logits[:, channel : channel + 1]
    values = scores.at_least_float32(channel_logits).flatten(1).mean(1, keepdim=True)
    voxels = torch.full((len(logits), 1), logits[0, 0].numel(), device=logits.device)
    target = ResolvedTarget(
        f"the logit of channel {channel}, over the whole output",
        scores.task_of(logits),
        torch.full_like(voxels, channel),
        voxels if logits.ndim > 2 else None,
    )
    return TargetScores(target, values)


def _score_value(logits: Tensor, notices: Notices, k: int) -> TargetScores:
    """Score `value`."""
    index = checked_channel(k, logits.shape[1])
    values = scores.at_least_float32(logits[:, index]).flatten(1 if logits.ndim > 2 else 0)
    values = values.mean(1) if values.ndim > 1 else values
    target = ResolvedTarget(f"the value of output {index}", scores.task_of(logits))
    return TargetScores(target, values[:, None])


def _score_region(logits: Tensor, notices: Notices, mask: Tensor, k: int) -> TargetScores:
    """Score `region`."""
    class_logits = scores.two_class_logits(logits)
    label = checked_label(k, class_logits.shape[1])
    inside = checked_region(mask, class_logits)
    voxels = inside.flatten(1).sum(1, keepdim=True)
    target = ResolvedTarget(
        f"class {label} inside the given region",
        "segmentation",
        torch.full_like(voxels, label),
        voxels,
        is_part=True,
    )
    notices.add(~inside.flatten(1).any(1), scores.EMPTY_TARGET)
    return TargetScores(target, scores.mean_inside(class_logits[:, label], inside)[:, None])


def _score_voxel(logits: Tensor, notices: Notices, index: tuple[int, ...], k: int) -> TargetScores:
    """Score `voxel`."""
    class_logits = scores.two_class_logits(logits)
    space = tuple(class_logits.shape[2:])
    if len(index) != len(space) or any(
        not -extent <= position < extent for position, extent in zip(index, space, strict=False)
    ):
        raise TargetError(f"Voxel {index} is not in the output, whose shape is {space}.")
    label = checked_label(k, class_logits.shape[1])
    at_voxel: tuple[Any, ...] = (..., *index)
    values = scores.at_least_float32(class_logits[:, label][at_voxel])[:, None]
    labels = torch.full(values.shape, label, device=logits.device)
    text = f"class {label} at voxel {index}"
    target = ResolvedTarget(text, "segmentation", labels, torch.ones_like(labels), is_part=True)
    return TargetScores(target, values)


def _score_where(
    logits: Tensor,
    notices: Notices,
    predicate: Callable[[Tensor], Tensor],
    k: int | None,
    text: str,
) -> TargetScores:
    """Score `where`."""
    with torch.no_grad():
        mask = predicate(logits.detach())
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TargetError(
            f"The predicate returned {describe_value(mask)}; it has to return a boolean mask "
            "[batch, *space] or [batch, classes, *space]."
        )
    return scores.score_mask(logits, mask, k, text, notices)


def _score_classes(
    logits: Tensor, notices: Notices, labels: Sequence[int], text: str
) -> TargetScores:
    """Score `classes`."""
    return scores.score_classes(logits, labels, text, notices)
