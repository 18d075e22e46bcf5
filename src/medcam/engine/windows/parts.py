"""Parts: the kinds of window maps that the maps of a volume are assembled from."""

from __future__ import annotations

from dataclasses import dataclass, field

from medcam.engine.windows.plan import StitchingPlan
from medcam.methods import Method, SharedWeights

_GRADIENTS = {
    "input_gradients": lambda input_gradients: input_gradients,
    "guided_gradients": lambda guided_gradients: guided_gradients,
}
"""The identity on each gradient of the input: gradients are summed before a method is applied."""


@dataclass(eq=False)
class Parts:
    """Kinds of window maps that the methods need, grouped by how they are stitched.

    Their names are numbers, because a method may have the name of another method's part. Several
    methods may use the same part.

    Attributes:
        summed: Parts that are summed, each window with its share of the target, by name.
        averaged: Signed parts that are averaged with the windows' weights, by name.
        shared: Parts with one set of channel weights for all windows, by name.
        names: The name of the part of each layer method.
    """

    summed: dict[str, Method] = field(default_factory=dict)
    averaged: dict[str, Method] = field(default_factory=dict)
    shared: dict[str, SharedWeights] = field(default_factory=dict)
    names: dict[Method, str] = field(default_factory=dict)


def layer_part(method: Method) -> Method | None:
    """Return the method whose windows' maps are stitched; None for a method of the input alone."""
    if method.from_cam is not None:
        return method.from_cam.cam
    return method if method.of_layer else None


def parts_of(plan: StitchingPlan) -> Parts:
    """Return the parts of all methods of a plan."""
    parts = Parts()
    for method in plan.request.methods:
        if method.from_cam is not None or not method.of_layer:
            for name in sorted(method.evidence & set(_GRADIENTS)):
                parts.summed[name] = Method(name, _GRADIENTS[name], name)
        part = layer_part(method)
        if part is None or part in parts.names:
            continue
        name = parts.names[part] = f"part {len(parts.names)}"
        by_volume_weights = plan.channel_weights == "volume" and part.shared is not None
        if part.stitched == "shared" or by_volume_weights:
            assert part.shared is not None  # noqa: S101  # Method checks it
            parts.shared[name] = part.shared
        elif part.stitched == "sum":
            parts.summed[name] = part
        else:
            one_window = len(plan.windows) == 1 and plan.count == 1
            parts.averaged[name] = part if one_window else part.signed_form()
    return parts
