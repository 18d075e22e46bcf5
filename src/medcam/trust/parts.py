"""The class of a segmentation that is checked, and its parts: components, or halves of one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from medcam import targets
from medcam.engine.target.resolution import TargetLike
from medcam.errors import InputError
from medcam.trust.blocks import to_numpy

_FEWEST_VOXELS = 4


class TwoParts(NamedTuple):
    """Two parts of a class in each sample, ``[batch, *space]``, and what the second is, in words.

    The words are those of a verdict: "another structure of the same class", or the other half of
    the only one.
    """

    first: NDArray[Any]
    second: NDArray[Any]
    words: str


def two_parts(predicted: NDArray[Any]) -> TwoParts:
    """Return the two largest components of each sample; a single one is cut into halves."""
    first, second = largest_components(predicted, 2)
    cut = 0
    for number, (largest, next_one) in enumerate(zip(first, second, strict=True)):
        if not next_one.any() and largest.any():
            first[number], second[number] = _halves(largest)
            cut += 1
    words = OTHER_STRUCTURE if cut < len(predicted) else OTHER_HALF
    return TwoParts(first, second, f"{words}, or its other half" if 0 < cut < len(first) else words)


OTHER_STRUCTURE = "another structure of the same class"
OTHER_HALF = "the other half of the same structure"


def largest_components(masks: NDArray[Any], count: int) -> list[NDArray[Any]]:
    """Return the largest components of each sample; those of few voxels are none."""
    from scipy.ndimage import label

    result = [np.zeros_like(masks) for _ in range(count)]
    structure = np.ones((3,) * (masks.ndim - 1))
    for number, mask in enumerate(masks):
        numbered, _ = label(mask, structure)
        sizes = np.bincount(numbered.ravel())
        sizes[0] = 0
        order = np.argsort(-sizes, kind="stable")[:count]
        for rank, component in enumerate(order):
            if sizes[component] >= (_FEWEST_VOXELS if rank or count == 1 else 1):
                result[rank][number] = numbered == component
    return result


def _halves(mask: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a component cut in the middle of its longest axis."""
    places = np.nonzero(mask)
    axis = int(np.argmax([place.max() - place.min() for place in places]))
    middle = np.median(places[axis])
    index = np.arange(mask.shape[axis]).reshape([-1 if a == axis else 1 for a in range(mask.ndim)])
    first, second = mask & (index <= middle), mask & (index > middle)
    before = mask & (index < middle)
    return (before, mask & ~before) if before.any() and not second.any() else (first, second)


def common_class(logits: Tensor, regions: bool) -> TargetLike:
    """Return the foreground class with the most predicted voxels, of those in every sample.

    Raises:
        InputError: No class is predicted in every sample.
    """
    count = logits.shape[1]
    if regions:
        rows = (logits > 0).flatten(2).sum(2)
    else:
        labels = logits.argmax(1).flatten(1)
        rows = torch.stack([row.bincount(minlength=count) for row in labels])
    sizes = to_numpy(rows)
    classes = range(0 if regions else 1, count)
    common = {label: float(sizes[:, label].sum()) for label in classes if sizes[:, label].all()}
    if not common:
        raise InputError(
            "No class but the background is predicted in every sample: name one with target=, or "
            "leave out the samples without it."
        )
    label = max(common, key=lambda label: common[label])
    return targets.region_class(label) if regions else label


def predicted_as(classes: Tensor, label: int, regions: bool) -> Bool[np.ndarray, "batch *space"]:
    """Return where a class is predicted, ``[batch, *space]``."""
    inside = classes[:, label] > 0 if regions else classes.argmax(1) == label
    return inside.cpu().numpy()
