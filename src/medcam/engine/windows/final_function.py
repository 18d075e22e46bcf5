"""Volumes of networks that end in a softmax or sigmoid: the target is resolved on logits."""

from __future__ import annotations

import torch
from torch import Tensor

from medcam.engine.model import isolation, outputs
from medcam.engine.model.outputs import Selector
from medcam.engine.model.probabilities import Probabilities, ProbabilityWatch
from medcam.engine.windows.ensemble import Members
from medcam.engine.windows.prediction import cut
from medcam.engine.windows.tiling import Windows


def final_function(
    members: Members, volume: Tensor, windows: Windows, prediction: Tensor, output: Selector
) -> str:
    """Return the function that a network ends in, e.g. "sigmoid"; empty for logits.

    Only a prediction whose values may be probabilities, or their logarithms, is looked into: the
    network runs once more, on one window.

    Args:
        members: Yields the networks.
        volume: The padded image.
        windows: The windows.
        prediction: The stitched prediction.
        output: Which tensor of the model's output is explained.
    """
    low, high = (float(value) for value in torch.aminmax(prediction.detach()))
    is_log = high <= _ROUNDING
    if callable(output) or high > 1 + _ROUNDING or (low < -_ROUNDING and not is_log):
        return ""
    member = next(iter(members()))
    inputs = cut(volume, [(0, windows.places[0])], member)
    space = tuple(inputs.shape[2:])
    probabilities = Probabilities(1, space)
    state = isolation.kept_state(isolation.modules_of(member.model))
    with state, torch.no_grad(), ProbabilityWatch(probabilities):
        chosen = outputs.select(member.model(inputs), output, batch=1, space=space)
    squashed = probabilities.before(chosen)
    return "" if squashed is None else squashed.function


_ROUNDING = 1e-3
"""By how much a stitched mean of probabilities may exceed 1, or fall below 0."""


def before(function: str, prediction: Tensor) -> Tensor:
    """Return values that rank the classes as the logits do, and are positive where these are.

    Args:
        function: What `final_function` returned.
        prediction: The stitched prediction.
    """
    if prediction.dtype != torch.float64:
        prediction = prediction.float()
    if function == "sigmoid":
        return torch.logit(prediction, eps=1e-7)
    if function == "log-sigmoid":
        return torch.logit(prediction.exp(), eps=1e-7)
    return prediction.clamp(min=1e-30).log() if function == "softmax" else prediction
