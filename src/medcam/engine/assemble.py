"""Assemble maps from evidence: apply each method, validate the values, resample them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medcam.engine.evidence import Evidence
from medcam.engine.notices import Notices, notice_non_finite
from medcam.engine.request import Request
from medcam.engine.target.scores import TargetScores
from medcam.errors import InputError, NoMapError
from medcam.maps import AttentionMap, MapKey, resample
from medcam.methods import Method

_BAD_MAP = (
    "The {} map of {} holds NaN or infinite values. Do the model's activations or logits overflow? "
    "Try float32, or inspect explanation.output."
)


def assemble(
    request: Request,
    evidence: Evidence,
    scores: TargetScores,
    shape: tuple[int, ...] | None,
    notices: Notices,
) -> dict[MapKey, AttentionMap]:
    """Return every method's map of every layer, ``[batch, targets, *space]``.

    Args:
        request: The request.
        evidence: The activations and gradients of the run.
        scores: The resolved target.
        shape: The spatial shape of the maps; None keeps the layer's own.
        notices: Receives the errors about maps that are not finite.
    """
    count = scores.values.shape[1]
    maps: dict[MapKey, AttentionMap] = {}
    for method, layer in _pairs(request, evidence):
        per_target = [evidence.map(method, target, layer) for target in range(count)]
        if shape is not None:
            _check_shape(method, per_target[0], len(scores.values), len(shape))
        values = torch.stack(per_target, 1) if count > 1 else per_target[0][:, None]
        channels = None
        if method.of_input:
            values, channels = method.reduced(values)
        place = "the input" if layer is None else f"layer {layer!r}"
        notice_non_finite(notices, values, NoMapError(_BAD_MAP.format(method.title, place)))
        if shape is not None:
            values = resample(values, shape)
            if channels is not None and tuple(channels.shape[3:]) != shape:
                channels = resample(channels.flatten(1, 2), shape).reshape(
                    *channels.shape[:3], *shape
                )
        key: MapKey = (method.name, layer) if request.several else layer
        maps[key] = method.map_of(values, layer, scores.target, channels)
    return maps


def _check_shape(method: Method, values: Tensor, batch: int, axes: int) -> None:
    """Raise if a method, which may be the user's own, returned something that is no map.

    Raises:
        InputError: It is not ``[batch, *layer]``, or for a map of the input ``[batch, channels,
            *space]``.
    """
    expected = axes + (2 if method.of_input else 1)
    if values.ndim != expected or len(values) != batch:
        kind = "[batch, channels, *space]" if method.of_input else "[batch, *layer]"
        raise InputError(
            f"The method {method.title!r} returned the shape {list(values.shape)}; a map has to be "
            f"{kind}, with {batch} sample(s) and {axes} spatial axes."
        )


def _pairs(request: Request, evidence: Evidence) -> Iterator[tuple[Method, str | None]]:
    """Yield each method with each layer that it has a map of."""
    for method in request.methods:
        if method.of_layer:
            for layer in evidence.layers:
                yield method, layer
        else:
            yield method, None
