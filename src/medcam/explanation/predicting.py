"""From an explanation to what the network predicted: `medcam.prediction_of`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medcam.engine.model import outputs
from medcam.engine.model.outputs import Selector
from medcam.engine.target.scores import two_class_logits
from medcam.errors import InputError
from medcam.explanation.explanation import Explanation
from medcam.explanation.predicted import Activation, PredictedClass, Prediction, voxel_size

ACTIVATIONS = ("auto", "softmax", "sigmoid", "none")
"""What ``probabilities=`` takes."""


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
    values = values.detach()[sample : sample + 1]
    ends_in = str(explanation.details.get("model_ends_in", ""))
    count = 2 if values.shape[1] == 1 else values.shape[1]
    known = _names(names, count)
    _check_truth(truth, count)
    if values.ndim > 2:
        if truth is not None:
            raise InputError(
                "A true class is known of classifications. Score the maps of a segmentation "
                "against a mask (--mask)."
            )
        rows, unit = _of_segmentation(values, known, explanation, ends_in, spacing)
        return Prediction("segmentation", rows, unit=unit)
    true = None if truth is None else tuple(truth)
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
    z = values[0].cpu().double()
    probabilities: Tensor | None = None
    if ends_in:
        probabilities = z.exp() if ends_in.startswith("log") else z
    elif activation == "softmax":
        probabilities = two_class_logits(z[None])[0].softmax(0)
    elif activation == "sigmoid":
        probabilities = z.sigmoid()
    is_single = len(z) == 1  # one logit is that of class 1; class 0 has none of its own
    if is_single and probabilities is not None and len(probabilities) == 1:
        probabilities = torch.cat([1 - probabilities, probabilities])
    logits: dict[int, float] = {} if ends_in else dict(enumerate(z.tolist(), start=int(is_single)))
    is_above = z > decision_threshold(ends_in)
    if is_single:
        chosen = {int(is_above)}
    elif activation == "sigmoid":
        chosen = set(is_above.nonzero()[:, 0].tolist())
    else:
        chosen = {int(z.argmax())}
    return tuple(
        PredictedClass(
            label, name, label in chosen, logits.get(label),
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
    has_background = True
    if explanation.target.regions or values.shape[1] == 1:
        counts = (values[0] > decision_threshold(ends_in)).flatten(1).sum(1).tolist()
        has_background = values.shape[1] == 1
        if has_background:
            counts = [values[0].numel() - counts[0], *counts]
    else:
        counts = values[0].argmax(0).flatten().bincount(minlength=len(names)).tolist()
    one_voxel, unit = voxel_size(spacing, values.ndim - 2)
    return tuple(
        PredictedClass(
            label, name, count > 0, voxels=int(count),
            size=None if one_voxel is None else count * one_voxel,
            is_background=has_background and label == 0,
        )
        for label, (name, count) in enumerate(zip(names, counts, strict=True))
    ), unit  # fmt: skip


def decision_threshold(ends_in: str) -> float:
    """Return the value above which a class by itself, or the only one, is predicted.

    Args:
        ends_in: The function that the model ends in, as ``details["model_ends_in"]``, or empty.

    Example:
        >>> decision_threshold(""), decision_threshold("sigmoid")
        (0.0, 0.5)
    """
    if ends_in.startswith("log"):
        return math.log(0.5)
    return 0.5 if ends_in else 0.0


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
