"""What the images of a check have to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from medcam.errors import InputError


def check_images(images: Tensor) -> None:
    """Raise if two images are the same: their maps would be, too.

    Raises:
        InputError: They are.
    """
    for first, second in combinations(range(len(images)), 2):
        if torch.equal(images[first], images[second]):
            raise InputError(
                f"Images {first} and {second} are the same: give images of different patients, "
                "since the check compares their maps."
            )


def check_spacing(spacing: Sequence[float] | None, images: Tensor) -> None:
    """Raise unless there is one positive length for each spatial axis."""
    if spacing is None:
        return
    if len(spacing) != images.ndim - 2 or not all(0 < size < math.inf for size in spacing):
        raise InputError(
            f"spacing={tuple(spacing)}: give the size of a voxel in mm for each of the "
            f"{images.ndim - 2} spatial axes."
        )
