"""The three tasks of the demo: each a trained network with images and ground truth.

They are the kinds of task in the tables of the M3d-CAM paper: 2D classification, 2D segmentation
and 3D segmentation.
"""

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
    load_lung_segmenter,
    load_lung_slices,
)


@dataclass(frozen=True)
class DemoTask:
    """A trained network with its inputs, the ground truth and the options of `medcam.inject`.

    Attributes:
        name: The name of the task's folder.
        title: The kind of task, e.g. ``"2D segmentation"``.
        question: The question that the network answers.
        explained: The target of the maps and the ground truth of their scores, in words.
        samples: The name of each sample of the batch.
        shown: The index of the sample in the figure.
        load: Loads the network.
        inputs: The input of the network, ``[batch, 1, *space]``.
        masks: The ground truth on the grid of the maps, ``[batch, 1, *grid]``.
        options: Keyword arguments of `medcam.inject`, apart from the method.
        raw_input: The images under the maps in 2D; None in 3D.
        sides: The patient's sides at the left and the right edge of the figure.
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


def load_tasks() -> list[DemoTask]:
    """Load the three tasks, in the order of the paper's tables.

    Example:
        >>> [(task.title, len(task.samples)) for task in load_tasks()]
        [('2D classification', 16), ('2D segmentation', 8), ('3D segmentation', 1)]
    """
    return [_lesions(), _lungs(), _brain()]


def _lesions() -> DemoTask:
    slices = load_lesion_slices()
    present = slices.labels == 1
    # flipped to the radiological convention, as the head is shown: the patient's right at the left
    images, masks = slices.images[present].flip(-1), slices.masks[present].flip(-1)
    return DemoTask(
        "lesion_2d",
        "2D classification",
        "Is there a lesion?",
        "the class 'lesion', against the lesion",
        [f"slice {number + 1}" for number in range(len(images))],
        # the largest lesion is the easiest to see in the figure
        int(masks.flatten(1).sum(1).argmax()),
        load_lesion_classifier,
        images,
        masks,
        {"label": 1},
        raw_input=images,
        sides=("R", "L"),
    )


def _lungs() -> DemoTask:
    chest = load_lung_slices()
    return DemoTask(
        "lungs_2d",
        "2D segmentation",
        "Where are the lungs?",
        "all pixels predicted as lung, against the lungs",
        [f"slice {number + 1}" for number in range(len(chest.images))],
        int(chest.nodules.flatten(1).sum(1).argmax()),  # the largest section of the tumour
        load_lung_segmenter,
        chest.images,
        chest.lungs,
        # Of Grad-CAM there, 0.82 is in the lungs (by chance 0.21), of Grad-CAM++ 0.78. The
        # correlation with the positive logits is 0.90: after decoder3 (0.96) and decoder1 (1.00)
        # the map repeats the segmentation..
        {"layer": "bottleneck.conv2"},
        raw_input=chest.images,
        sides=("R", "L"),
    )


def _brain() -> DemoTask:
    head = load_head()
    return DemoTask(
        "brain_3d",
        "3D segmentation",
        "Where is the brain?",
        "all voxels predicted as brain, against the brain",
        ["head"],
        0,
        load_brain_segmenter,
        head.image,
        torch.from_numpy(head.mask)[None, None],
        # Of Grad-CAM there, 0.92 is in the brain (by chance 0.26), of Grad-CAM++ 0.90. The
        # correlation with the positive logits is 0.93; at decoder1 it is 1.00 and at decoder2 0.99,
        # so the map repeats the segmentation. At decoder3 (0.86) the transposed convolution leaves
        # a checkerboard pattern. After encoder3's last ReLU, 0.34 of Grad-CAM++ is in the brain.
        # Grad-CAM++ is one bright spot in the middle of the brain: one channel outweighs the rest.
        {"layer": "encoder3.conv2", "data_shape": head.volume.shape, "reference": head.path},
        sides=("R", "L"),
    )
