"""How a network's first convolutions read an image: which of its axes are samples, or views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from medcam.engine.model.placement.arrangement import MIN_PICTURE_AXES
from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.parts import axes_of, flat


class Entries:
    """The convolutions through which images enter a network.

    Views that the network takes one by one, ``[batch, views, channels, H, W]`` or ``[batch, views,
    H, W]``, stand where other networks have the channels of one image.

    Attributes:
        views: The axes of a map of each image whose channels are views, by its number.
        early: The same, of images whose first convolution shows it.
    """

    def __init__(self) -> None:
        self.views: dict[int, tuple[int, ...]] = {}
        self.early: dict[int, tuple[int, ...]] = {}
        # the first views that each convolution saw of an image, by the id of its weights
        self._seen: dict[int, dict[int, set[float]]] = {}

    def note(
        self, arguments: Mapping[str, Any], image: int, geometry: Geometry | str, shape: torch.Size
    ) -> None:
        """Note a convolution of something that comes from an image.

        Args:
            arguments: The arguments of the convolution by name.
            image: The number of the image.
            geometry: The geometry of its input on the image, or the reason why that is unknown.
            shape: The image's shape.
        """
        rank = arguments["weight"].ndim - 2
        entering = arguments["weight"].shape[1] * arguments["groups"]
        may_be_one = len(shape) == rank + 3 and shape[1] > 1 and shape[2] == entering
        if isinstance(geometry, str):
            if may_be_one and arguments["input"].shape[-rank:] == shape[3:]:
                self.views.setdefault(image, (1, *range(3, len(shape))))
            return
        parts = (part for dim in geometry.dims[-rank:] for part in flat(dim) if part.size > 1)
        spatial = sorted(axes_of(parts) - {0, 1})
        if any(width > 1 for width in geometry.width[2:]) or len(spatial) != MIN_PICTURE_AXES:
            return  # it has passed another convolution, or is no picture
        samples, channels = geometry.dims[: -rank - 1], geometry.dims[-rank - 1]
        batched = [p for dim in samples for p in flat(dim) if p.axis == 1 and p.size > 1]
        colours = [part for part in flat(channels) if part.axis == 1 and part.size > 1]
        is_one = may_be_one and not colours and geometry.width[1] <= 1 and 2 not in spatial
        if batched or is_one:
            self.views[image] = self.early[image] = (1, *spatial)
        elif not colours:
            of_weights = self._seen.setdefault(image, {})
            of_weights.setdefault(id(arguments["weight"]), set()).add(geometry.start[1])
            if len(of_weights[id(arguments["weight"])]) > 1:
                self.views[image] = (1, *spatial)
