"""The registry of metrics: every name, what it computes and how to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from medcam.evaluation.chance import area_share, near_share, one_half
from medcam.evaluation.overlap import dice, ioa, iou, wioa, wiou
from medcam.evaluation.ranking import (
    auroc,
    average_precision,
    pointing_game,
    relevance_mass,
    relevance_rank,
)
from medcam.evaluation.surface import assd, centroid_distance, hd95

Option = Literal["threshold", "spacing", "tolerance_mm"]


@dataclass(frozen=True)
class Options:
    """What a metric may depend on beside map and mask; checked where it is made.

    Attributes:
        threshold: ``'otsu'`` or τ from 0 to 1.
        spacing: Voxel size in mm along each axis; None is 1 mm each.
        tolerance_mm: Of the pointing game.
    """

    threshold: str | float = "otsu"
    spacing: tuple[float, ...] | None = None
    tolerance_mm: float = 0.0


@dataclass(frozen=True)
class Metric:
    """One metric of a map against a mask.

    Attributes:
        title: Its name in words.
        function: ``(attention [*space], mask [*space], **options)`` → score.
        options: The keywords that ``function`` takes, of those in ``Options``.
        higher_is_better: Whether more is better.
        unit: ``""`` for a share from 0 to 1, ``"mm"`` for a distance.
        chance: ``(mask, **options)`` → the score of a map that knows nothing of
            the mask, or None where there is no such level.
    """

    title: str
    function: Callable[..., float]
    options: tuple[Option, ...] = ()
    higher_is_better: bool = True
    unit: Literal["", "mm"] = ""
    chance: Callable[..., float] | None = None

    @property
    def thresholded(self) -> bool:
        """Whether the score depends on a threshold."""
        return "threshold" in self.options

    def score(
        self,
        attention: Float[np.ndarray, "*space"],
        mask: Bool[np.ndarray, "*space"],
        options: Options,
    ) -> float:
        """Gives the score, handing on those options that this metric takes.

        Example:
            >>> attention, mask = np.array([[0.0, 0.4, 1.0]]), np.array([[False, True, True]])
            >>> METRICS["iou"].score(attention, mask, Options(threshold=0.5))
            0.5
        """
        chosen = {name: getattr(options, name) for name in self.options}
        return self.function(attention, mask, **chosen)

    def chance_level(self, mask: Bool[np.ndarray, "*space"], options: Options) -> float | None:
        """Gives the score that chance alone reaches on this mask, or None where undefined.

        Example:
            >>> METRICS["wioa"].chance_level(np.array([[False, True]]), Options())
            0.5
        """
        if self.chance is None:
            return None
        chosen = {name: getattr(options, name) for name in self.options if name != "threshold"}
        return self.chance(mask, **chosen)


_DISTANCE: tuple[Option, ...] = ("threshold", "spacing")

METRICS: dict[str, Metric] = {
    "wioa": Metric("Weighted intersection over attention", wioa, ("threshold",), chance=area_share),
    "ioa": Metric("Intersection over attention", ioa, ("threshold",), chance=area_share),
    "iou": Metric("Intersection over union", iou, ("threshold",)),
    "wiou": Metric("Soft intersection over union", wiou),
    "dice": Metric("Dice coefficient", dice, ("threshold",)),
    "pointing_game": Metric(
        "Pointing game", pointing_game, ("spacing", "tolerance_mm"), chance=near_share
    ),
    "relevance_mass": Metric("Relevance mass", relevance_mass, chance=area_share),
    "relevance_rank": Metric("Relevance rank", relevance_rank, chance=area_share),
    "auroc": Metric("Area under the ROC curve", auroc, chance=one_half),
    "average_precision": Metric("Average precision", average_precision, chance=area_share),
    "hd95": Metric("95 % Hausdorff distance", hd95, _DISTANCE, False, "mm"),
    "assd": Metric("Average symmetric surface distance", assd, _DISTANCE, False, "mm"),
    "centroid_distance": Metric("Centroid distance", centroid_distance, _DISTANCE, False, "mm"),
}
