"""Parts: the kinds of window maps that the maps of a volume are assembled from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

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
        one_window: Whether one window of one network covers everything: nothing is averaged.
        for_volume: Whether channels are weighted once for the volume, where a method can.
        summed: Parts that are summed, each window with its share of the target, by name.
        averaged: Signed parts that are averaged with the windows' weights, by name.
        shared: Parts with one set of channel weights for all windows, by name; each with the title
            of its method.
        names: The name of each part, by `identity_of`.
    """

    one_window: bool
    for_volume: bool
    summed: dict[str, Method] = field(default_factory=dict)
    averaged: dict[str, Method] = field(default_factory=dict)
    shared: dict[str, tuple[str, SharedWeights]] = field(default_factory=dict)
    names: dict[object, str] = field(default_factory=dict)

    def name_of(self, part: Method) -> str:
        """Return the name of a layer method's part."""
        return self.names[self.identity_of(part)]

    def shares_weights(self, part: Method) -> bool:
        """Return whether one set of channel weights serves all windows."""
        for_volume = self.for_volume and not self.one_window
        return part.stitched == "shared" or (for_volume and part.shared is not None)

    def identity_of(self, part: Method) -> object:
        """Return what identifies a part.

        Methods are compared by their function and options, not by equality, since every
        `Method.signed_form` is a new partial function, and a user's callable may not be hashable.
        """
        if self.shares_weights(part):
            return "shared", id(part.shared)
        function: Any = part.function
        options: dict[str, Any] = {}
        arguments: list[int] = []
        while isinstance(function, partial):
            options = {**function.keywords, **options}
            arguments += map(id, function.args)
            function = function.func
        rectify = options.pop("rectify", True) if self.one_window else False
        return id(function), *arguments, repr(sorted(options.items())), part.stitched, rectify


def layer_part(method: Method) -> Method | None:
    """Return the method whose windows' maps are stitched; None for a method of the input alone."""
    if method.from_cam is not None:
        return method.from_cam.cam
    return method if method.of_layer else None


def parts_of(plan: StitchingPlan) -> Parts:
    """Return the parts of all methods of a plan."""
    one_window = len(plan.windows) == 1 and plan.count == 1
    parts = Parts(one_window, plan.channel_weights == "volume")
    for method in plan.request.methods:
        if method.from_cam is not None or not method.of_layer:
            for name in sorted(method.evidence & set(_GRADIENTS)):
                parts.summed[name] = Method(name, _GRADIENTS[name], name)
        part = layer_part(method)
        if part is None or parts.identity_of(part) in parts.names:
            continue
        name = parts.names[parts.identity_of(part)] = f"part {len(parts.names)}"
        if parts.shares_weights(part) and part.shared is not None:
            parts.shared[name] = part.title, part.shared
        elif part.stitched == "sum":
            parts.summed[name] = part
        else:
            parts.averaged[name] = part if one_window else part.signed_form()
    return parts
