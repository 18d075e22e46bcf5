"""Targets of detectors: the score of one detection in each image."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.engine.model.detections import Detections
from medcam.engine.notices import Notices
from medcam.engine.target.arguments import describe_value, name_of
from medcam.engine.target.scores import TargetScores, at_least_float32
from medcam.errors import TargetError
from medcam.maps import ResolvedTarget

Number = int | float
"""A coordinate."""

Corners = tuple[Number, ...]
"""A box: the lowest coordinate along each axis, then the highest."""

_SATURATED = 1e-6  # below this, the gradient of a float32 probability is mostly rounding
_NO_GRADIENT = (
    "The score of the explained detection is 1 up to rounding in sample(s) {samples}: its gradient "
    "vanishes, so the map is zero or shows rounding errors. Explain the network's logits: choose "
    "them with output=, and a target that is a function of them."
)
_MOST_LISTED = 5  # detections in an error


@dataclass(frozen=True, eq=False)
class BoxTarget:
    """A target that `box` made.

    Attributes:
        description: The target in words.
        boxes: The box of each sample, or a single one for all; None: the best-scored detection.
        labels: The class of each sample's detection, or a single one; None: any class.
        indices: The number of each sample's detection, or a single one.
    """

    description: str
    boxes: tuple[Corners, ...] | None = None
    labels: tuple[int, ...] | None = None
    indices: tuple[int, ...] | None = None


def box(
    box: Sequence[Number] | Sequence[Sequence[Number]] | Tensor | None = None,
    label: int | Sequence[int] | None = None,
    *,
    index: int | Sequence[int] | None = None,
) -> BoxTarget:
    """Return the target of one detection's score in each image, for networks that detect objects.

    Without arguments it is the detection with the highest score. The boxes themselves are not
    explained: which detection is meant is decided once, and its score is differentiated.

    Args:
        box: The detection with the largest intersection over union with this box is explained. The
            lowest coordinate along each axis comes first, then the highest, in the detector's order
            of axes: ``(x1, y1, x2, y2)``. A single box, or one for each sample.
        label: Only detections of this class are considered; one class, or one for each sample.
        index: The number of the detection in the detector's output, from 0 on; one number, or one
            for each sample.

    Raises:
        TargetError: An argument is no box, class or number; or an index is given with a box or a
            class.

    Example:
        >>> box((10, 20, 40, 60), label=1).description
        'the detection of class 1 that overlaps most with the box (10, 20, 40, 60)'
        >>> box().description
        'the best-scored detection'
    """
    if index is not None and (box is not None or label is not None):
        raise TargetError("index= names one detection: give it without a box and a label.")
    labels, indices = _whole_numbers(label, "label"), _whole_numbers(index, "index")
    boxes = None if box is None else _boxes(box)
    if indices is not None:
        return BoxTarget(f"detection {_joined(indices)}", indices=indices)
    of_class = "" if labels is None else f" of class {_joined(labels)}"
    if boxes is None:
        return BoxTarget(f"the best-scored detection{of_class}", labels=labels)
    shown = ", ".join(_shown(corners) for corners in boxes)
    text = f"the detection{of_class} that overlaps most with the box {shown}"
    return BoxTarget(text, boxes, labels)


def score_detections(
    target: BoxTarget, detections: Sequence[Detections], notices: Notices
) -> TargetScores:
    """Return the score of one detection in each image.

    Args:
        target: The target.
        detections: The detections in each image.
        notices: Receives a warning about scores whose gradient vanishes.

    Raises:
        TargetError: No detection fits; the message lists those that there are.
    """
    chosen = [_choose(target, image, sample, len(detections))
              for sample, image in enumerate(detections)]  # fmt: skip
    scores = [image.scores[i] for image, i in zip(detections, chosen, strict=True)]
    labels = [
        image.labels[i]
        for image, i in zip(detections, chosen, strict=True)
        if image.labels is not None
    ]
    classes = torch.stack(labels)[:, None] if len(labels) == len(detections) else None
    resolved = ResolvedTarget(target.description, "detection", classes)
    values = at_least_float32(torch.stack(scores))[:, None]
    notices.add((1 - values[:, 0].detach()).abs() < _SATURATED, _NO_GRADIENT)
    return TargetScores(resolved, values)


def score_detections_by(function: Callable[[Any], Any], output: Any, batch: int) -> TargetScores:
    """Return the scores of a user's function of what the detector returned.

    Args:
        function: The function.
        output: The list of mappings.
        batch: The number of samples.

    Raises:
        TargetError: The function returns something else than scores.
    """
    result = function(output)
    is_score = isinstance(result, Tensor) and result.is_floating_point()
    if is_score and result.ndim == 0 and batch == 1:
        result = result[None]
    if not is_score or result.ndim not in (1, 2) or len(result) != batch:
        raise TargetError(
            f"The target returned {describe_value(result)} for the detections of {batch} image(s); "
            f"it has to return scores [batch] = [{batch}] or [batch, targets]."
        )
    values = at_least_float32(result if result.ndim == 2 else result[:, None])
    return TargetScores(ResolvedTarget(f"the score of {name_of(function)}", "detection"), values)


@torch.no_grad()
def _choose(target: BoxTarget, image: Detections, sample: int, batch: int) -> int:
    """Return the number of the detection that is explained in one image."""
    if not len(image):
        raise TargetError(
            f"There is no detection in sample {sample}. Lower the score that the detector keeps "
            "boxes from (torchvision: score_thresh, box_score_thresh; MONAI: "
            "set_box_selector_parameters(score_thresh=...))."
        )
    if target.indices is not None:
        index = int(_of_sample(target.indices, sample, batch))
        if not 0 <= index < len(image):
            raise TargetError(
                f"Detection {index} does not exist in sample {sample}. {_listed(image)}"
            )
        return index
    is_candidate = torch.ones(len(image), dtype=torch.bool, device=image.scores.device)
    if target.labels is not None:
        label = _of_sample(target.labels, sample, batch)
        if image.labels is None:
            raise TargetError("The detector returns no labels: choose by a box or an index.")
        is_candidate = image.labels == label
        if not bool(is_candidate.any()):
            raise TargetError(
                f"There is no detection of class {label} in sample {sample}. {_listed(image)}"
            )
    if target.boxes is None:
        return int(image.scores.detach().masked_fill(~is_candidate, -torch.inf).argmax())
    corners = _of_sample(target.boxes, sample, batch)
    if len(corners) != image.boxes.shape[1]:
        raise TargetError(
            f"The box {_shown(corners)} has {len(corners)} coordinates; the detector's boxes have "
            f"{image.boxes.shape[1]}."
        )
    overlap = _intersection_over_union(image.boxes.detach(), corners)
    overlap = overlap.masked_fill(~is_candidate, -1.0)
    if not float(overlap.max()) > 0:
        raise TargetError(
            f"No detection{' of this class' if target.labels is not None else ''} overlaps with "
            f"the box {_shown(corners)} in sample {sample}. {_listed(image)}"
        )
    return int(overlap.argmax())


def _intersection_over_union(
    boxes: Float[Tensor, "detections sides"], corners: Sequence[Number]
) -> Float[Tensor, " detections"]:
    """Return the intersection over union of each box with one box, in any number of axes."""
    boxes = boxes.double()
    other = torch.tensor(corners, dtype=boxes.dtype, device=boxes.device)
    axes = len(corners) // 2
    low, high = boxes[:, :axes].maximum(other[:axes]), boxes[:, axes:].minimum(other[axes:])
    shared = (high - low).clamp(min=0).prod(1)
    volumes = (boxes[:, axes:] - boxes[:, :axes]).prod(1) + (other[axes:] - other[:axes]).prod()
    return shared / (volumes - shared).clamp(min=1e-12)


def _listed(image: Detections) -> str:
    """Return a sentence that lists the detections of an image, the best-scored first."""
    order = image.scores.detach().argsort(descending=True)[:_MOST_LISTED].tolist()
    texts = []
    for number in order:
        label = "" if image.labels is None else f"class {int(image.labels[number])}, "
        score, corners = float(image.scores[number]), image.boxes[number].tolist()
        texts.append(f"{number} ({label}score {score:.3g}, box {_shown(corners)})")
    more = f" and {len(image) - len(order)} more" if len(image) > len(order) else ""
    return f"There are: {'; '.join(texts)}{more}."


def _of_sample(values: Sequence[Any], sample: int, batch: int) -> Any:
    """Return one sample's value; a single value is for all samples."""
    if len(values) not in (1, batch):
        raise TargetError(
            f"{len(values)} boxes, labels or indices were given for a batch of {batch}: give one "
            "for each sample, or a single one for all."
        )
    return values[sample if len(values) > 1 else 0]


def _boxes(values: Any) -> tuple[Corners, ...]:
    """Return one box or several as tuples of coordinates."""
    try:
        corners = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        corners = torch.zeros(0)
    rows = corners[None] if corners.ndim == 1 else corners
    axes = rows.shape[1] // 2 if rows.ndim == 2 else 0
    is_box = rows.ndim == 2 and len(rows) > 0 and rows.shape[1] in (2, 4, 6)
    if not is_box or not bool((rows[:, axes:] > rows[:, :axes]).all()):
        raise TargetError(
            f"box={describe_value(values)} is no box: give the lowest coordinate along each axis, "
            "then the highest, (x1, y1, x2, y2) or (x1, y1, z1, x2, y2, z2), or one such box for "
            "each sample."
        )
    return tuple(tuple(row) for row in rows.tolist())


def _whole_numbers(values: Any, name: str) -> tuple[int, ...] | None:
    """Return one whole number or several as a tuple; None stays None."""
    if values is None:
        return None
    listed = values.tolist() if hasattr(values, "tolist") else values
    listed = list(listed) if isinstance(listed, (list, tuple)) else [listed]
    if not listed or any(isinstance(v, bool) or not hasattr(v, "__index__") for v in listed):
        raise TargetError(
            f"{name}={describe_value(values)}: give a whole number from 0 on, or one for each "
            "sample."
        )
    return tuple(operator.index(value) for value in listed)


def _joined(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _shown(corners: Sequence[Number]) -> str:
    return f"({', '.join(f'{corner:.6g}' for corner in corners)})"
