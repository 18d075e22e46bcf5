"""The part of a page that says what the network predicted, from the record of a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medcam.views.report.records import mapping_in
from medcam.views.report.tables import Table, table

_MOST_CLASSES = 12
"""The most classes of the table; the others are counted."""


@dataclass(frozen=True)
class OutcomeSection:
    """What a page shows of a prediction.

    Attributes:
        sentence: The predicted classes, and whether they are right where that is known.
        table: A row for each class, the predicted ones first.
        rest: What the table leaves out, and how probabilities were computed; may be empty.
    """

    sentence: str
    table: Table
    rest: list[str]


def outcome_section(prediction: Mapping[str, Any]) -> OutcomeSection | None:
    """Return what a page shows of a prediction; None without one.

    Args:
        prediction: As `medcam.Prediction.to_dict` returns it, or empty.

    Raises:
        KeyError: The record is incomplete.
        TypeError: It holds values of other types.

    Example:
        >>> row = {"class": 1, "name": "lesion", "is_predicted": True, "logit": 2.5}
        >>> record = {"task": "classification", "predicted": ["lesion"], "classes": [row]}
        >>> outcome_section(record).sentence
        'Predicted: lesion.'
    """
    if not prediction:
        return None
    classes = [mapping_in("a prediction", item) for item in prediction["classes"]]
    is_segmentation = prediction["task"] == "segmentation"
    named = [str(name) for name in _names(prediction["predicted"])]
    background = [str(item["name"]) for item in classes if item.get("is_background")]
    named = [name for name in named if name not in background]
    sentence = f"Predicted: {', '.join(named) or 'nothing'}."
    is_correct = prediction.get("is_correct")
    if is_correct is not None:
        truth = {int(label) for label in prediction["truth"]}
        true = [str(item["name"]) for item in classes if item["class"] in truth]
        right = "correct" if is_correct else "not correct"
        sentence += f" That is {right}: the truth is {', '.join(true) or 'no class'}."
    key = "voxels" if is_segmentation else "probability"
    order = sorted(
        classes,
        key=lambda item: (not item["is_predicted"], -_number(item.get(key, item.get("logit")))),
    )
    shown = [item for item in order if not is_segmentation or item["is_predicted"]]
    shown = shown[:_MOST_CLASSES]
    unit = str(prediction.get("unit") or "")
    return OutcomeSection(
        sentence, table([_row(item, unit, is_segmentation) for item in shown]),
        _rest(prediction, len(classes) - len(shown)),
    )  # fmt: skip


def _row(item: Mapping[str, Any], unit: str, is_segmentation: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"Class": f"{item['class']}", "Name": str(item["name"])}
    titles = {"logit": "Logit", "probability": "Probability", "voxels": "Voxels", "size": unit}
    row.update({title: item[name] for name, title in titles.items() if name in item and title})
    if unit in row and row[unit] >= _WHOLE:
        row[unit] = round(row[unit])
    if not is_segmentation:
        row["Predicted"] = "yes" if item["is_predicted"] else "no"
    return row


_WHOLE = 1000  # ml or mm² from which on decimals say nothing


def _rest(prediction: Mapping[str, Any], left_out: int) -> list[str]:
    """Return what the table leaves out, and where its probabilities come from."""
    rest = []
    if left_out and prediction["task"] == "segmentation":
        rest.append(f"{left_out} class{'es are' if left_out > 1 else ' is'} predicted nowhere.")
    elif left_out:
        further = "classes are" if left_out > 1 else "class is"
        rest.append(f"{left_out} further {further} in the record.")
    function = prediction.get("probabilities", "none")
    if function in ("softmax", "sigmoid"):
        assumed = prediction.get("probabilities_are_assumed")
        rest.append(
            f"Probabilities are the {function} of the logits"
            f"{', which is assumed: the model does not say so' if assumed else ''}."
        )
    return rest


def _names(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise TypeError(f"the predicted classes are a {type(value).__name__}")
    return value


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("-inf")
