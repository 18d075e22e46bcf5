"""Warnings about maps of which it can be seen, without a ground truth, that they may mislead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medcam.engine.notices import Notices
from medcam.engine.request import Request
from medcam.errors import warn
from medcam.maps import ResolvedTarget
from medcam.methods import Method

_FEWEST_CELLS = 16
"""The fewest cells of a layer for which two maps are compared."""


@dataclass(eq=False)
class Agreements:
    """How well maps agree with those of another method, made of the same evidence.

    Attributes:
        correlations: By method and layer Pearson's correlation of the two maps, ``[samples]``; NaN
            where a map is constant.
    """

    correlations: dict[tuple[Method, str], Tensor] = field(default_factory=dict)

    def note(self, method: Method, layer: str, evidence: Mapping[str, Any], values: Tensor) -> None:
        """Compare a map with that of the other method.

        Args:
            method: The method.
            layer: The layer.
            evidence: The evidence by name.
            values: The map, ``[samples, *layer]``.
        """
        agreement = method.agreement
        if agreement is None or values[0].numel() < _FEWEST_CELLS:
            return
        needed = {name: evidence[name] for name in ("activations", "gradients")}
        other = agreement.function(**needed)
        shown = values.relu() if method.rectified else values  # a window's map stays signed
        self.correlations[method, layer] = _correlation(shown, other)

    def report(self, notices: Notices) -> None:
        """Add a warning for each map that does not agree."""
        for (method, layer), values in self.correlations.items():
            agreement = method.agreement
            if agreement is not None:
                notices.add(values < agreement.least, disagreement(method, layer))


def disagreement(method: Method, layer: str, where: str = "for sample(s) {samples}") -> str:
    """Return the warning about a map that does not agree with another.

    Args:
        method: The method.
        layer: The layer.
        where: Where; by default for `Notices.add`.
    """
    other = method.agreement
    if other is None:
        raise ValueError("the method is not compared with another one")
    return (
        f"{method.title} and {other.title} hardly agree at layer {layer!r} {where} "
        f"(correlation below {other.least}), so at least one of them does not show what the "
        f"prediction depends on. Compare other layers and methods, such as '{other.name}'; the "
        "page 'The methods, and when they mislead' of the docs has the measurements."
    )


def warn_of_parts(request: Request, target: ResolvedTarget) -> None:
    """Warn if a method that cannot tell structures apart is asked for the map of one.

    Of a window this is said for the volume.
    """
    if request.is_window:
        return
    titles = [method.title for method in request.methods if method.per_channel]
    if target.is_part and titles:
        listed = ", ".join(titles)
        warn(
            f"{listed} cannot explain a part of a segmentation: each channel has one weight, so "
            "the map of one structure is that of all structures that look alike. Choose "
            "method='segxrescam' or 'hirescam'."
        )


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's correlation of two maps for each sample."""
    rows = [values.flatten(1).double() for values in (first, second)]
    rows = [values - values.mean(1, keepdim=True) for values in rows]
    size = torch.linalg.vector_norm(rows[0], dim=1) * torch.linalg.vector_norm(rows[1], dim=1)
    correlation: Tensor = (rows[0] * rows[1]).sum(1) / size.where(size > 0, torch.nan)
    return correlation
