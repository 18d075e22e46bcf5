"""What is explained of a model's output: its logits, and the score of the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from medcam.engine.model import outputs
from medcam.engine.model.probabilities import (
    SIGMOIDS,
    Probabilities,
    ProbabilityWatch,
    Squashed,
    ends_in,
)
from medcam.engine.notices import warn_of_probabilities
from medcam.engine.prepare import Prepared
from medcam.engine.request import Request
from medcam.engine.target import resolution
from medcam.engine.target.scores import TargetScores
from medcam.errors import warn


@dataclass(frozen=True, eq=False)
class Explained:
    """What is explained of an output.

    Attributes:
        scores: The resolved target.
        logits: The explained logits; None for a detector, whose boxes have scores, but no logits.
        function: The function that squashes them; empty where the model returns logits.
    """

    scores: TargetScores
    logits: Tensor | None
    function: str


def score_output(
    prepared: Prepared, output: Any, probabilities: Probabilities, *, batch: int
) -> Explained:
    """Return the scores of the target, with the logits that they are made of.

    A model that ends in a softmax or a sigmoid is explained at its logits, with a warning. A target
    that is a function of the output is given the output.

    Args:
        prepared: The call.
        output: The model's output.
        probabilities: The operations of the run that may be the model's last one.
        batch: The number of samples.
    """
    request = prepared.request
    selected = outputs.select_detections(output, request.output, batch=batch)
    if selected is not None:
        detections = resolution.resolve_detections(request.target, *selected, prepared.notices)
        return Explained(detections, None, "")
    chosen, squashed = _logits(request, prepared.image, output, probabilities, batch=batch)
    if squashed is None:
        warn_of_probabilities(chosen)
    elif not request.is_window:
        warn(ends_in(squashed.function))
    function = "" if squashed is None else squashed.function
    scores = resolution.resolve(
        request.target, chosen, prepared.notices, axes=prepared.image.ndim - 2,
        regions=function in SIGMOIDS and not request.is_window,
    )  # fmt: skip
    return Explained(scores, chosen, function)


def logits_of_run(
    request: Request, image: Tensor, call: Callable[[], Any], *, batch: int
) -> Tensor:
    """Run a model, and return the logits of its output.

    Args:
        request: The request.
        image: The image that maps lie on, or another one of its shape.
        call: Runs the model.
        batch: The number of samples that it runs on.
    """
    probabilities = Probabilities(batch, tuple(image.shape[2:]))
    with ProbabilityWatch(probabilities):
        output = call()
    return _logits(request, image, output, probabilities, batch=batch)[0]


def _logits(
    request: Request, image: Tensor, output: Any, probabilities: Probabilities, *, batch: int
) -> tuple[Tensor, Squashed | None]:
    """Return the logits of an output, and what squashed them if they are not the output itself."""
    space = tuple(image.shape[2:])
    chosen = outputs.select(
        output, request.output, batch=batch, space=space, channels=image.shape[1]
    )
    if callable(request.output) or not request.at_logits:
        return chosen, None
    squashed = probabilities.before(chosen, through_layers=request.layer == "full")
    return (chosen, None) if squashed is None else (squashed.logits, squashed)
