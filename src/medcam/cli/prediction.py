"""What a network predicted: classes by name, with probabilities, and an image of labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medcam.errors import MedcamError
    from medcam.explanation.explanation import Explanation
    from medcam.explanation.predicted import Prediction
    from medcam.files import Image

ClassesOption = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        help="The names of the classes: a text file with one on each line, class 0 first, or JSON: "
        "a list, names by number, or nnU-Net's dataset.json.",
    ),
]
ProbabilitiesOption = Annotated[
    str,
    typer.Option(
        "--probabilities",
        help="How probabilities follow from the logits: softmax, sigmoid, none, or auto: what the "
        "model ends in, else softmax (one logit: sigmoid), and it is said that this is assumed.",
    ),
]
TruthOption = Annotated[
    list[str] | None,
    typer.Option(
        "--truth",
        help="The true class, a number or a name of --classes, if it is known; several of a "
        "multi-label network.",
    ),
]


@dataclass(frozen=True)
class NamedClasses:
    """The names of the classes, how probabilities are computed, and the true classes.

    Attributes:
        names: The names by class.
        probabilities: As in `medcam.prediction_of`.
        truth: The true classes; None if they are not known.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    probabilities: str = "auto"
    truth: tuple[int, ...] | None = None

    @staticmethod
    def read(classes: Path | None, probabilities: str, truth: Sequence[str] | None) -> NamedClasses:
        """Return what the options say, before the model runs.

        Raises:
            InputError: The file cannot be read, holds no names, or has no such class; or there is
                no such way to probabilities.
        """
        from medcam.errors import InputError, unknown_name
        from medcam.explanation.predicting import ACTIVATIONS

        if probabilities not in ACTIVATIONS:
            raise InputError(f"--probabilities {probabilities!r}: choose {', '.join(ACTIVATIONS)}.")
        names = {} if classes is None else _read_names(classes)
        labels = {name: label for label, name in names.items()}
        true = []
        for text in truth or ():
            if text not in labels and not text.isdigit():
                raise unknown_name("Class", text, labels, more="See --classes.")
            true.append(labels[text] if text in labels else int(text))
        return NamedClasses(names, probabilities, tuple(true) if truth else None)


def _read_names(path: Path) -> dict[int, str]:
    """Return the names of classes from a file.

    Raises:
        InputError: The file cannot be read, or holds no names.
    """
    from medcam.errors import InputError

    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"--classes '{path}' cannot be read: {error}.") from error
    try:
        if isinstance(content, dict) and isinstance(content.get("labels"), dict):  # dataset.json
            content = {value: name for name, value in content["labels"].items() if name != "ignore"}
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        names = {int(label): str(name).strip() for label, name in pairs}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"--classes '{path}' holds no names by class: give one name on each line, a JSON list, "
            'or {"0": "healthy", "1": "lesion"}. Regions of several labels have no class of their '
            "own."
        ) from error
    names = {label: name for label, name in names.items() if name}
    if not names:
        raise InputError(f"--classes '{path}' holds no names.")
    return names


def said_of(
    explanation: Explanation, selector: Any, image: Image, named: NamedClasses
) -> tuple[Prediction | None, MedcamError | None]:
    """Return what the network predicted of the image.

    Args:
        explanation: The explanation.
        selector: Which part of the output is explained.
        image: The image, whose voxels have a size.
        named: The names of the classes, and what is known of them.

    Returns:
        The prediction, None for detections; and why there is none, an error to be raised once the
        maps are written.
    """
    from medcam.cli.trust_run import spacing_of
    from medcam.errors import MedcamError
    from medcam.explanation.predicting import prediction_of

    try:
        said = prediction_of(
            explanation, output=selector, names=named.names, probabilities=named.probabilities,
            truth=named.truth, spacing=spacing_of(image),
        )  # fmt: skip
    except MedcamError as error:
        return None, type(error)(f"The maps are written, but not what was predicted: {error}")
    return said, None


def segmentation_of(explanation: Explanation, selector: Any, image: Image) -> NDArray[Any] | None:
    """Return the predicted labels; None if the output is not on the image's grid."""
    from medcam.engine.model import outputs
    from medcam.explanation.predicting import decision_threshold

    logits = outputs.select(explanation.output, selector, batch=1, space=image.space)
    if tuple(logits.shape[2:]) != image.space:
        return None
    ends_in = str(explanation.details.get("model_ends_in", ""))
    positive = (logits > decision_threshold(ends_in))[0]
    if explanation.target.regions:
        return _painted(positive.cpu().numpy())
    predicted = logits.argmax(1)[0] if logits.shape[1] > 1 else positive[0]
    labels: NDArray[Any] = predicted.cpu().numpy()
    return labels


def _painted(regions: NDArray[np.bool_]) -> NDArray[Any]:
    """Return regions that may overlap as labels: region k is k + 1, small ones over large ones."""
    import numpy as np

    labels = np.zeros(regions.shape[1:], np.uint8)
    for k in np.argsort(-regions.reshape(len(regions), -1).sum(1), kind="stable"):
        labels[regions[k]] = k + 1
    return labels
