"""Parts of a segmented class: its largest components, or halves of the only one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    return mask & (index <= middle), mask & (index > middle)
