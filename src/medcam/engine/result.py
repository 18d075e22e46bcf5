"""Result of one run of a model, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from medcam.engine.blanks import BlankKey
from medcam.engine.notices import Notices
from medcam.maps import AttentionMap, ImageName, MapKey, ResolvedTarget
from medcam.methods import Method


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """One run of a model, or of its windows over a volume.

    Attributes:
        output: The model's output, or the stitched prediction ``[batch, classes, *space]``.
        target: The resolved target.
        maps: The maps by layer, or by ``(method, layer)`` if several methods were requested.
            Their flags in ``notices`` may not have been read yet.
        layers: The layers of the maps, after "auto" and "full" were resolved.
        skipped: Layers without a map, with the reason (``layer="full"``).
        notices: Warnings and errors whose condition has not been read from the device yet.
        names_run: Whether the layer's name alone identifies the recorded run, which is so if it is
            the layer's last.
        details: Details of the windows over a volume, by name.
        inputs: The main input, ``[batch, channels, *space]``; None if it is not kept.
        images: The images that the maps lie on, by name.
        alternatives: Layers that may be explained instead of the automatic one.
        blanks: The maps of a window that are zero everywhere, with the reason.
        agreements: Of a window, how well its maps agree with those of another method.
        features: For each recorded layer on an image its channels and spatial extents.
    """

    output: Any
    target: ResolvedTarget
    maps: Mapping[MapKey, AttentionMap]
    layers: tuple[str, ...]
    skipped: Mapping[str, str]
    notices: Notices
    names_run: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)
    inputs: Tensor | None = None
    images: Mapping[ImageName, Tensor] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()
    blanks: Mapping[BlankKey, Tensor] = field(default_factory=dict)
    agreements: Mapping[tuple[Method, str], Tensor] = field(default_factory=dict)
    features: Mapping[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def layer(self) -> str | tuple[str, ...] | None:
        """The layer, or several as a tuple, or None for methods without a layer."""
        if not self.layers:
            return None
        return self.layers[0] if len(self.layers) == 1 else self.layers
