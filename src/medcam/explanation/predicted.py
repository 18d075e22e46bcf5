"""What a network predicted: classes with logits and probabilities, and sizes of structures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from medcam.engine.model import outputs
from medcam.engine.model.outputs import Selector
from medcam.engine.target.scores import two_class_logits
from medcam.errors import InputError

if TYPE_CHECKING:
    from medcam.explanation.explanation import Explanation

Activation = Literal["softmax", "sigmoid", "none"]
"""How probabilities follow from logits; "none": there are no probabilities."""

ACTIVATIONS = ("auto", "softmax", "sigmoid", "none")
"""What ``probabilities=`` takes."""


@dataclass(frozen=True)
class PredictedClass:
    """What a network says of one class.

    Attributes:
        label: The class.
        name: Its name; "class 1" without names.
        is_predicted: Whether it is predicted; in a segmentation, anywhere.
        logit: Its logit, in a classification; None if the model returns probabilities.
        probability: Its probability, in a classification; None without.
        voxels: The number of voxels that are predicted as the class, in a segmentation.
        size: Their volume in ml, or their area in mm²; None where the voxels' size is unknown.
    """

    label: int
    name: str
    is_predicted: bool
    logit: float | None = None
    probability: float | None = None
    voxels: int | None = None
    size: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the values, for JSON."""
        row: dict[str, Any] = {
            "class": self.label, "name": self.name, "is_predicted": self.is_predicted,
        }  # fmt: skip
        values = {"logit": self.logit, "probability": self.probability, "voxels": self.voxels,
                  "size": self.size}  # fmt: skip
        row.update({name: _plain(value) for name, value in values.items() if value is not None})
        return row


@dataclass(frozen=True)
class Prediction:
    """What a network predicted of one sample.

    Attributes:
        task: "classification" or "segmentation".
        classes: What it says of each class.
        activation: How the probabilities follow from the logits.
        is_assumed: Whether that was assumed: it does not follow from the model, and was not named.
        unit: The unit of the sizes, "ml" or "mm²"; empty where these are unknown.
        truth: The true classes, where they are known.
    """

    task: Literal["classification", "segmentation"]
    classes: tuple[PredictedClass, ...]
    activation: Activation = "none"
    is_assumed: bool = False
    unit: str = ""
    truth: tuple[int, ...] | None = None
    predicted: tuple[PredictedClass, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        chosen = tuple(item for item in self.classes if item.is_predicted)
        object.__setattr__(self, "predicted", chosen)

    @property
    def is_correct(self) -> bool | None:
        """Whether the predicted classes are the true ones; None where these are unknown."""
        if self.truth is None:
            return None
        return {item.label for item in self.predicted} == set(self.truth)

    @property
    def basis(self) -> str:
        """How the probabilities were computed, in words; empty without any."""
        if self.task == "segmentation" or self.activation == "none":
            return ""
        return f"{self.activation}{', assumed' * self.is_assumed}"

    def __str__(self) -> str:
        parts = [_in_words(item, self.unit) for item in self.predicted]
        if self.task == "segmentation":
            parts = [part for item, part in zip(self.predicted, parts, strict=True) if item.label]
        text = ", ".join(parts) or "nothing"
        if self.basis:
            text += f" ({self.basis})"
        if self.is_correct is None:
            return text
        return f"{text}: {'correct' if self.is_correct else 'not correct'}"

    def to_dict(self) -> dict[str, Any]:
        """Return the values, for JSON."""
        row: dict[str, Any] = {
            "task": self.task,
            "predicted": [item.name for item in self.predicted],
            "classes": [item.to_dict() for item in self.classes],
        }
        if self.task == "classification":
            row.update(probabilities=self.activation, probabilities_are_assumed=self.is_assumed)
        if self.unit:
            row["unit"] = self.unit
        if self.truth is not None:
            row.update(truth=list(self.truth), is_correct=self.is_correct)
        return row


def prediction_of(
    explanation: Explanation,
    *,
    output: Selector = None,
    sample: int = 0,
    names: Mapping[int, str] | Sequence[str] = (),
    probabilities: str = "auto",
    truth: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
) -> Prediction | None:
    """Return what the network predicted of a sample; None for detections.

    Args:
        explanation: The explanation.
        output: As in `medcam.explain`.
        sample: The number of the sample.
        names: The names of the classes, by number or in their order.
        probabilities: How they follow from the logits: "softmax", "sigmoid" or "none". "auto" is
            the function that the model ends in; if it ends in none, softmax for several classes
            and sigmoid for one logit, which the result says was assumed.
        truth: The true classes, where they are known.
        spacing: The size of a voxel in mm on each spatial axis of the output, for the sizes of a
            segmentation.

    Raises:
        InputError: ``probabilities`` is no word of these, or a name or true class does not exist.
    """
    if probabilities not in ACTIVATIONS:
        raise InputError(f"probabilities={probabilities!r}: choose {', '.join(ACTIVATIONS)}.")
    batch = next(iter(explanation.maps.values())).values.shape[0]
    space = tuple(explanation.inputs.shape[2:]) if explanation.inputs is not None else ()
    if outputs.select_detections(explanation.output, output, batch=batch) is not None:
        return None
    values = outputs.select(explanation.output, output, batch=batch, space=space)
    values = values.detach()[sample : sample + 1].cpu().double()
    ends_in = str(explanation.details.get("model_ends_in", ""))
    count = 2 if values.shape[1] == 1 else values.shape[1]
    known = _names(names, count)
    _check_truth(truth, count)
    true = None if truth is None else tuple(truth)
    if values.ndim > 2:
        rows, unit = _of_segmentation(values, known, explanation, ends_in, spacing)
        return Prediction("segmentation", rows, unit=unit, truth=None)
    activation, is_assumed = _activation(probabilities, ends_in, values.shape[1])
    rows = _of_classification(values, known, activation, ends_in)
    return Prediction("classification", rows, activation, is_assumed, truth=true)


def _activation(asked: str, ends_in: str, channels: int) -> tuple[Activation, bool]:
    """Return how probabilities follow from the logits, and whether that is assumed."""
    words: tuple[Activation, ...] = ("softmax", "sigmoid")
    for word in words:
        if asked == word or (asked == "auto" and word in ends_in):
            return word, False
    if asked == "none":
        return "none", False
    return ("sigmoid" if channels == 1 else "softmax"), True


def _of_classification(
    values: Tensor, names: Sequence[str], activation: Activation, ends_in: str
) -> tuple[PredictedClass, ...]:
    """Return what is said of each class, of logits or of what the model makes of them."""
    is_single = values.shape[1] == 1
    probabilities: Tensor | None = None
    logits: Tensor | None = values[0]
    if ends_in:
        probabilities = values[0].exp() if ends_in.startswith("log") else values[0]
        logits = None
    elif activation == "softmax":
        probabilities = two_class_logits(values)[0].softmax(0)
    elif activation == "sigmoid":
        probabilities = values[0].sigmoid()
    if is_single:  # one logit z is that of class 1; class 0 has none of its own
        if probabilities is not None and len(probabilities) == 1:
            probabilities = torch.cat([1 - probabilities, probabilities])
        logits = None if logits is None else torch.cat([torch.full((1,), math.nan), logits])
    score = probabilities if logits is None else logits
    if score is None:
        raise ValueError("there are logits or probabilities")
    if is_single:
        best = int(probabilities[1] > 0.5) if probabilities is not None else int(score[1] > 0)
        chosen = {best}
    elif activation == "sigmoid":
        chosen = set((score > (0.5 if logits is None else 0.0)).nonzero()[:, 0].tolist())
    else:
        chosen = {int(score.argmax())}
    return tuple(
        PredictedClass(
            label, name, label in chosen,
            None if logits is None or logits[label].isnan() else float(logits[label]),
            None if probabilities is None else float(probabilities[label]),
        )
        for label, name in enumerate(names)
    )  # fmt: skip


def _of_segmentation(
    values: Tensor,
    names: Sequence[str],
    explanation: Explanation,
    ends_in: str,
    spacing: Sequence[float] | None,
) -> tuple[tuple[PredictedClass, ...], str]:
    """Return how many voxels are predicted as each class, and the unit of their size."""
    threshold = math.log(0.5) if ends_in.startswith("log") else 0.5 if ends_in else 0.0
    if explanation.target.regions:
        counts = (values[0] > threshold).flatten(1).sum(1).tolist()
        if values.shape[1] == 1:
            counts = [values[0].numel() - counts[0], *counts]
    elif values.shape[1] == 1:
        inside = int((values > threshold).sum())
        counts = [values.numel() - inside, inside]
    else:
        counts = np.bincount(values[0].argmax(0).flatten().numpy(), minlength=len(names)).tolist()
    one_voxel, unit = voxel_size(spacing, values.ndim - 2)
    return tuple(
        PredictedClass(
            label, name, count > 0, voxels=int(count),
            size=None if one_voxel is None else count * one_voxel,
        )
        for label, (name, count) in enumerate(zip(names, counts, strict=True))
    ), unit  # fmt: skip


def voxel_size(spacing: Sequence[float] | None, axes: int) -> tuple[float | None, str]:
    """Return the size of a voxel with its unit: ml in 3D, mm² in 2D."""
    if spacing is None or len(spacing) != axes or axes not in (2, 3):
        return None, ""
    size = math.prod(spacing)
    return (size / 1000, "ml") if axes == 3 else (size, "mm²")


def _names(names: Mapping[int, str] | Sequence[str], count: int) -> list[str]:
    """Return the names of the classes; those without one are called by their number."""
    by_label = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
    unknown = [label for label in by_label if not 0 <= label < count]
    if unknown:
        raise InputError(
            f"There are {len(by_label)} names of classes, but the output has the classes 0 to "
            f"{count - 1}: there is no class {unknown[0]}."
        )
    return [str(by_label.get(label, f"class {label}")) for label in range(count)]


def _check_truth(truth: Sequence[int] | None, count: int) -> None:
    """Raise for a true class that the output does not have."""
    wrong = [label for label in truth or () if not 0 <= label < count]
    if wrong:
        raise InputError(
            f"The true class {wrong[0]} does not exist: the output has the classes 0 to "
            f"{count - 1}."
        )


def _in_words(item: PredictedClass, unit: str) -> str:
    """Return a predicted class in a few words."""
    if item.probability is not None:
        return f"{item.name} {item.probability:.2f}"
    if item.size is not None:
        return f"{item.name} {item.size:.3g} {unit}"
    if item.voxels is not None:
        return f"{item.name} {item.voxels:,} voxels"
    return item.name if item.logit is None else f"{item.name} (logit {item.logit:.3g})"


def _plain(value: float) -> float | None:
    """Return a number for JSON; None for NaN and infinity."""
    return value if isinstance(value, int) else round(value, 6) if math.isfinite(value) else None
