"""Scores of a call's maps against a ground truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medcam.engine.model.nested import without_subclass
from medcam.errors import MaskError
from medcam.evaluation.evaluator import Evaluator
from medcam.maps import AttentionMap, MapKey


def score_maps(
    maps: Mapping[MapKey, AttentionMap],
    mask: Any,
    evaluator: Evaluator,
    call: int,
    space: Sequence[int],
    spacings: Sequence[Sequence[float] | None] | None = None,
) -> dict[str, list[float]]:
    """The scores by layer, one for each sample and target; the evaluator keeps them.

    Args:
        maps: The maps of one call.
        mask: The ground truth, ``[batch, 1, *space]``, ``[batch, *space]``, ``[batch, targets,
            *space]``, or ``[*space]`` for a single sample.
        evaluator: What scores and remembers.
        call: The call's number, for the rows' names.
        space: The input's spatial shape; the mask has this one, or that of the maps.
        spacings: Each sample's voxel size in mm; None is 1 mm.

    Raises:
        MaskError: The mask does not fit the maps.
    """
    scores: dict[str, list[float]] = defaultdict(list)
    for key, item in maps.items():
        layer = key if isinstance(key, str) else ""
        attention = item.attention().detach().cpu()
        batch, targets = attention.shape[:2]
        masks = _masks(mask, batch, targets, attention.ndim - 2)
        grids = {tuple(space), tuple(attention.shape[2:])}
        if tuple(masks.shape[2:]) not in grids:
            raise MaskError(
                f"The mask's spatial shape is {tuple(masks.shape[2:])}; it has to be that of the "
                f"input or of the map: {' or '.join(str(grid) for grid in sorted(grids))}."
            )
        for sample in range(batch):
            for target in range(targets):
                scores[layer].append(
                    evaluator.comp_score(
                        attention[sample, target],
                        masks[sample, target],
                        layer=layer,
                        class_label=_class_label(item, sample, target),
                        name=f"{call}_{sample}_{target}",
                        spacing=None if spacings is None else spacings[sample],
                    )
                )
    return dict(scores)


def _class_label(item: AttentionMap, sample: int, target: int) -> int | str:
    """The class explained; where it is no class, what it is in words."""
    classes = item.target.classes
    return str(item.target) if classes is None else int(classes[sample, target])


def _masks(truth: Any, batch: int, targets: int, rank: int) -> Tensor:
    """The ground truth as ``[batch, targets, *space]``.

    Raises:
        MaskError: Its shape does not fit the maps'.
    """
    mask: Tensor = without_subclass(torch.as_tensor(truth).detach().cpu())
    given = tuple(mask.shape)
    if mask.ndim == rank and batch == 1:
        mask = mask[None, None]
    elif mask.ndim == rank + 1 and len(mask) == batch:
        mask = mask[:, None]
    if mask.ndim != rank + 2 or len(mask) != batch or mask.shape[1] not in (1, targets):
        raise MaskError(
            f"The mask has shape {given}; for {batch} sample(s) and {targets} target(s) it has to "
            f"be [{batch}, 1, *space], [{batch}, *space]"
            + (f" or [{batch}, {targets}, *space]" if targets > 1 else "")
            + f", with {rank} spatial axes."
        )
    return mask.expand(-1, targets, *mask.shape[2:])
