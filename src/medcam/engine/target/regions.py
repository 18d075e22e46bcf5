"""Scores of regions: channels that may overlap, each predicted where its own logit is positive."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from medcam.engine.notices import Notices
from medcam.engine.target.arguments import checked_label
from medcam.engine.target.scores import (
    NOT_PREDICTED,
    TargetScores,
    mean_inside,
    two_class_logits,
    with_space_axes,
)
from medcam.errors import TargetError
from medcam.maps import ResolvedTarget

_NO_REGION = (
    "No region is predicted in sample(s) {samples}: the map explains the mean of all logits there. "
    "Pass target=medcam.targets.region_class(k) to explain a region of your choice."
)


def score_regions(logits: Tensor, notices: Notices, labels: Sequence[int]) -> TargetScores:
    """Score channels as regions that may overlap: each over the voxels where it is positive."""
    logits = two_class_logits(logits)
    checked = [checked_label(label, logits.shape[1]) for label in labels]
    columns = [logits.new_full((len(logits),), k, dtype=torch.long) for k in checked]
    text = "every region" if len(labels) > 1 else f"region {labels[0]}"
    return _score_region_labels(logits, torch.stack(columns, 1), text, notices)


def score_region_per_sample(
    logits: Tensor, notices: Notices, labels: Sequence[int]
) -> TargetScores:
    """Score one region for each sample.

    Raises:
        TargetError: There is not one region for each sample, or one does not exist.
    """
    if len(labels) != len(logits):
        raise TargetError(f"{len(labels)} regions were given for a batch of {len(logits)}.")
    logits = two_class_logits(logits)
    checked = [checked_label(label, logits.shape[1]) for label in labels]
    per_sample = torch.stack([logits.new_full((1,), k, dtype=torch.long) for k in checked])
    return _score_region_labels(logits, per_sample, "one region per sample", notices)


def score_chosen_regions(logits: Tensor, notices: Notices, chosen: str) -> TargetScores:
    """Score the regions that `medcam.engine.target.targets.regions_of` names by a word."""
    if chosen == "all":
        return score_regions(logits, notices, range(max(logits.shape[1], 2)))
    positive = logits.detach() > 0
    is_empty = ~positive.flatten(1).any(1)
    if chosen == "best":
        best = positive.flatten(2).sum(2).argmax(1, keepdim=True)
        if logits.shape[1] == 1:  # the foreground
            logits, best = two_class_logits(logits), torch.ones_like(best)
        return _score_region_labels(logits, best, "the largest predicted region", notices)
    notices.add(is_empty, _NO_REGION)
    inside = positive | with_space_axes(is_empty, positive)
    voxels = inside.any(1).flatten(1).sum(1, keepdim=True)
    target = ResolvedTarget("the predicted regions", "segmentation", None, voxels, regions=True)
    return TargetScores(target, mean_inside(logits, inside)[:, None])


def _score_region_labels(
    logits: Tensor, labels: Int[Tensor, "batch targets"], text: str, notices: Notices
) -> TargetScores:
    """Return each region's mean logit over the voxels where it is positive."""
    values, counts, missing = [], [], []
    for label in labels.unbind(1):
        index = with_space_axes(label, logits[:, 0]).expand_as(logits[:, 0])[:, None]
        region = logits.gather(1, index)[:, 0]
        inside = region.detach() > 0
        is_empty = ~inside.flatten(1).any(1)
        inside = inside | with_space_axes(is_empty, inside)
        values.append(mean_inside(region, inside))
        counts.append(inside.flatten(1).sum(1))
        missing.append(is_empty)
    notices.add(torch.stack(missing, 1), NOT_PREDICTED)
    target = ResolvedTarget(
        f"{text}, over the voxels where its logit is positive", "segmentation", labels,
        torch.stack(counts, 1), regions=True,
    )  # fmt: skip
    return TargetScores(target, torch.stack(values, 1))
