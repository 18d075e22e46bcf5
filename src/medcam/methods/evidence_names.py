"""The names of evidence, from which the parameters of a method are chosen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from medcam.errors import InputError

TENSORS = ("activations", "gradients", "inputs", "input_gradients", "guided_gradients")
"""Evidence of one run, see `medcam.methods`."""

REPLAYS = ("score_of", "input_gradient_at", "score_of_masked", "score_without", "map_at")
"""Evidence that runs the model again: functions of a changed sample, see `medcam.methods`."""

EVIDENCE = (*TENSORS, *REPLAYS)
"""The names of all evidence."""

OF_SCORE = frozenset({"gradients", "input_gradients", "guided_gradients"})
"""Evidence that differs between targets."""


def parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of the evidence that a function takes."""
    return frozenset(inspect.signature(function).parameters) & frozenset(EVIDENCE)


def check_parameters(name: str, function: Callable[..., Any], evidence: Iterable[str]) -> None:
    """Raise if the parameters of a method's function are not evidence, or do not fit together.

    Args:
        name: The name of the method.
        function: Its function.
        evidence: The evidence among its parameters.

    Raises:
        InputError: They are not; the message lists what is allowed.
    """
    unknown = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in EVIDENCE
        and parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if unknown:
        listed = ", ".join(map(repr, unknown))
        raise InputError(
            f"The function of method {name!r} takes {listed}, which is no evidence: "
            f"choose from {', '.join(EVIDENCE)}; options need a default."
        )
    needed = frozenset(evidence)
    if not needed:
        raise InputError(
            f"The function of method {name!r} takes no evidence: give it at least one of "
            f"the parameters {', '.join(EVIDENCE)}."
        )
    replays, of_score = sorted(needed & frozenset(REPLAYS)), sorted(needed & OF_SCORE)
    if replays and of_score:
        raise InputError(
            f"The function of method {name!r} takes {of_score[0]}, of one target, and "
            f"{replays[0]}, which returns all targets: take the gradient from "
            "input_gradient_at(inputs)."
        )
    if replays and not needed & {"inputs", "activations"}:
        raise InputError(
            f"The function of method {name!r} takes {replays[0]}, but neither inputs nor "
            "activations: which of them it takes says where its map lies."
        )
