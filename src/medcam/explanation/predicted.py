"""What a network predicted: classes with logits and probabilities, and sizes of structures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Activation = Literal["softmax", "sigmoid", "none"]
"""How probabilities follow from logits; "none": there are no probabilities."""


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
        is_background: Whether it is the background of a segmentation, which is no finding.
    """

    label: int
    name: str
    is_predicted: bool
    logit: float | None = None
    probability: float | None = None
    voxels: int | None = None
    size: float | None = None
    is_background: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the values, for JSON."""
        row: dict[str, Any] = {
            "class": self.label, "name": self.name, "is_predicted": self.is_predicted,
        }  # fmt: skip
        values = {"logit": self.logit, "probability": self.probability, "voxels": self.voxels,
                  "size": self.size}  # fmt: skip
        row.update({name: _plain(value) for name, value in values.items() if value is not None})
        if self.is_background:
            row["is_background"] = True
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

    @property
    def predicted(self) -> tuple[PredictedClass, ...]:
        """The predicted classes."""
        return tuple(item for item in self.classes if item.is_predicted)

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
        parts = [_in_words(item, self.unit) for item in self.predicted if not item.is_background]
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


def voxel_size(spacing: Sequence[float] | None, axes: int) -> tuple[float | None, str]:
    """Return the size of a voxel with its unit: ml in 3D, mm² in 2D."""
    if spacing is None or len(spacing) != axes or axes not in (2, 3):
        return None, ""
    size = math.prod(spacing)
    return (size / 1000, "ml") if axes == 3 else (size, "mm²")


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
