"""The demonstration's three tasks, as in the M3d-CAM paper's tables: a network each, and truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medcam.demo.assets import (
    load_brain_segmenter,
    load_head,
    load_lesion_classifier,
    load_lesion_slices,
    load_nuclei,
    load_nuclei_segmenter,
)


@dataclass(frozen=True)
class Task:
    """A trained network, what it is given, and the truth.

    Attributes:
        name: The folder's name.
        title: The kind of task, e.g. ``"2D segmentation"``.
        question: What the network is asked.
        explained: What its maps explain, and what they are scored against.
        samples: A name for each sample of the batch.
        shown: The sample that the figure shows.
        load: Loads the network.
        inputs: What the network takes, ``[batch, 1, *space]``.
        masks: The truth on the grid of the maps, ``[batch, 1, *grid]``.
        options: What `medcam.inject` is given beside the backend.
        raw_input: What 2D maps are drawn on; None in 3D.
        sides: The letters of the patient's sides at the left and the right of the figure.
    """

    name: str
    title: str
    question: str
    explained: str
    samples: Sequence[str]
    shown: int
    load: Callable[[], nn.Module]
    inputs: Tensor
    masks: Tensor
    options: dict[str, Any]
    raw_input: Tensor | None = None
    sides: tuple[str, str] | None = None


def tasks() -> list[Task]:
    """The three tasks, in the order of the paper's tables.

    Example:
        >>> [(task.title, len(task.samples)) for task in tasks()]
        [('2D classification', 16), ('2D segmentation', 8), ('3D segmentation', 1)]
    """
    return [_lesions(), _nuclei(), _brain()]


def _lesions() -> Task:
    slices = load_lesion_slices()
    present = slices.labels == 1
    # the patient's right is on the left, as radiologists look at it and as the head is shown
    images, masks = slices.images[present].flip(-1), slices.masks[present].flip(-1)
    return Task(
        "lesion_2d",
        "2D classification",
        "Is there a lesion?",
        "the class 'lesion', against the lesion",
        [f"slice {number + 1}" for number in range(len(images))],
        # the largest lesion, as it is the easiest to see
        int(masks.flatten(1).sum(1).argmax()),
        load_lesion_classifier,
        images,
        masks,
        {"label": 1},
        raw_input=images,
        sides=("R", "L"),
    )


def _nuclei() -> Task:
    nuclei = load_nuclei()
    return Task(
        "nuclei_2d",
        "2D segmentation",
        "Where are the nuclei?",
        "all pixels predicted as nuclei, against all nuclei",
        [f"tile {number + 1}" for number in range(len(nuclei.images))],
        5,  # full, and no nucleus in it is so bright that it hides the others
        load_nuclei_segmenter,
        nuclei.images,
        nuclei.masks,
        # "auto" takes the bottleneck. Grad-CAM weighs its channels as wholes, and many stand for
        # the space between nuclei: no more than by chance (.21) lies on nuclei there.
        {"layer": "decoder2"},
        raw_input=nuclei.images,
    )


def _brain() -> Task:
    head = load_head()
    return Task(
        "brain_3d",
        "3D segmentation",
        "Where is the brain?",
        "all voxels predicted as brain, against the brain",
        ["head"],
        0,
        load_brain_segmenter,
        head.image,
        torch.from_numpy(head.mask)[None, None],
        # "auto" takes decoder3: right, but its transposed convolution leaves a checkerboard
        {"layer": "decoder1", "data_shape": head.volume.shape, "reference": head.path},
        sides=("R", "L"),
    )
