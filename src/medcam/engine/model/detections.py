"""Read the detections that a detector returns: for each image boxes, scores and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

_BOXES, _SCORES, _LABELS = ("boxes", "box"), ("scores", "score"), ("labels", "label")


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections in one image.

    Attributes:
        boxes: The lowest coordinate along each axis, then the highest: ``(x1, y1, x2, y2)`` in
            torchvision, ``(x1, y1, z1, x2, y2, z2)`` in MONAI.
        scores: The score of each box, attached to the graph.
        labels: The class of each box; None if the detector returns none.
    """

    boxes: Float[Tensor, "detections sides"]
    scores: Float[Tensor, " detections"]
    labels: Int[Tensor, " detections"] | None

    def __len__(self) -> int:
        return len(self.scores)


def detections_of(output: Any, batch: int) -> list[Detections] | None:
    """Return the detections in each image; None if the output holds no detections.

    Torchvision's and MONAI's detectors return a list with a mapping for each image. The keys end in
    "boxes", "scores" and "labels" (or the singular), as "labels_scores" does. The mapping alone is
    accepted for a single image.

    Args:
        output: What the model returned.
        batch: The number of images.

    Example:
        >>> import torch
        >>> output = [{"box": torch.zeros(3, 4), "label_scores": torch.ones(3)}]
        >>> len(detections_of(output, 1)[0])
        3
    """
    images = [output] if isinstance(output, Mapping) else output
    if not isinstance(images, (list, tuple)) or not images or len(images) != batch:
        return None
    read = [_of_image(image) for image in images]
    detections = [image for image in read if image is not None]
    return detections if len(detections) == batch else None


def _of_image(image: Any) -> Detections | None:
    """Return the detections of one image's mapping; None if it has no boxes with scores."""
    if not isinstance(image, Mapping):
        return None
    boxes, scores = _entry(image, _BOXES, 2), _entry(image, _SCORES, 1)
    if boxes is None or scores is None or len(boxes) != len(scores) or boxes.shape[1] % 2:
        return None
    labels = _entry(image, _LABELS, 1)
    return Detections(boxes, scores, None if labels is None else labels.long())


def _entry(image: Mapping[Any, Any], endings: tuple[str, ...], axes: int) -> Tensor | None:
    """Return the first tensor with this number of axes whose key ends in one of the words."""
    for key, value in image.items():
        if isinstance(value, Tensor) and value.ndim == axes and str(key).endswith(endings):
            return value
    return None
