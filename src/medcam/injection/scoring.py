"""Scores of a call's maps against a ground truth."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from medcam.engine.model.nested import without_subclass
from medcam.errors import MaskError
from medcam.evaluation.evaluator import Evaluator
from medcam.maps import AttentionMap, MapKey


def score_maps(
    maps: Mapping[MapKey, AttentionMap],
    mask: Any,
    evaluator: Evaluator,
    *,
    call: int,
    space: Sequence[int],
    spacings: Sequence[Sequence[float] | None] | None = None,
) -> dict[str, list[float]]:
    """Return the scores by layer, one for each sample and target; the evaluator keeps them.

    Args:
        maps: The maps of one call.
        mask: The ground truth, ``[batch, 1, *space]``, ``[batch, *space]``, ``[batch, targets,
            *space]``, or ``[*space]`` for a single sample; for a bag also ``[slices, 1, H, W]``.
        evaluator: Computes and collects the scores.
        call: The call's number, for the names of the rows.
        space: The input's spatial shape; the mask has this shape, or that of the maps.
        spacings: Each sample's voxel size in mm; None is 1 mm.

    Raises:
        MaskError: The mask does not fit the maps.
    """
    scores: dict[str, list[float]] = defaultdict(list)
    for key, item in maps.items():
        layer = str(key[0] if isinstance(key, tuple) else key or "")
        ending = "" if item.image is None or not isinstance(key, tuple) else f"_{item.image}"
        batch, targets = item.values.shape[:2]
        masks = _masks(mask, batch, targets, item.values.shape[2:])
        shapes = {tuple(space), tuple(item.values.shape[2:]), item.input_space} - {()}
        if tuple(masks.shape[2:]) not in shapes:
            raise MaskError(
                f"The mask's spatial shape is {tuple(masks.shape[2:])}; it has to be that of the "
                f"input or of the map: {' or '.join(str(shape) for shape in sorted(shapes))}."
            )
        if item.on_layer and masks.shape[2:] != item.values.shape[2:]:
            # where the layer's features lie, as the evaluator knows extents only
            item = dataclasses.replace(item, values=item.at(masks.shape[2:]), on_layer=False)
        attention = item.attention().detach().cpu()
        for sample in range(batch):
            for target in range(targets):
                if not bool(attention[sample, target].isfinite().all()):
                    missing = evaluator.add_missing(
                        layer,
                        _class_label(item, sample, target),
                        f"{call}_{sample}_{target}{ending}",
                    )
                    scores[layer].append(missing)
                    continue
                scores[layer].append(
                    evaluator.comp_score(
                        attention[sample, target],
                        masks[sample, target],
                        layer=layer,
                        class_label=_class_label(item, sample, target),
                        name=f"{call}_{sample}_{target}{ending}",
                        spacing=None if spacings is None else spacings[sample],
                    )
                )
    return dict(scores)


def _class_label(item: AttentionMap, sample: int, target: int) -> int | str:
    """Return the class that a map explains; of a target that is no class, its description."""
    classes = item.target.classes
    return str(item.target) if classes is None else int(classes[sample, target])


def _masks(
    mask: Any, batch: int, targets: int, space: Sequence[int]
) -> Shaped[Tensor, "batch targets *space"]:
    """Return the ground truth for each sample and target.

    Args:
        mask: As in `score_maps`.
        batch: The number of samples.
        targets: The number of targets.
        space: The spatial extents of the maps.

    Raises:
        MaskError: The mask's shape does not fit the maps'.
    """
    masks: Tensor = without_subclass(torch.as_tensor(mask).detach().cpu())
    shape, spatial_axes = tuple(masks.shape), len(space)
    if batch == 1 and spatial_axes == masks.ndim - 1 and shape[:2] == (space[0], 1) != (1, 1):
        masks = masks[:, 0]  # as a bag of slices is, [slices, 1, H, W]
    if masks.ndim == spatial_axes and batch == 1:
        masks = masks[None, None]
    elif masks.ndim == spatial_axes + 1 and len(masks) == batch:
        masks = masks[:, None]
    fits = masks.ndim == spatial_axes + 2 and len(masks) == batch
    if not fits or masks.shape[1] not in (1, targets):
        raise MaskError(
            f"The mask has shape {shape}; for {batch} sample(s) and {targets} target(s) it has to "
            f"be [{batch}, 1, *space], [{batch}, *space]"
            + (f" or [{batch}, {targets}, *space]" if targets > 1 else "")
            + f", with {spatial_axes} spatial axes."
        )
    return masks.expand(-1, targets, *masks.shape[2:])
