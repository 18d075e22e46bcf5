"""The registry of metrics: for each name its function, options, unit and chance level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from medcam.evaluation.chance import area_share, grown_area_share, one_half
from medcam.evaluation.overlap import dice, ioa, iou, wioa, wiou
from medcam.evaluation.ranking import (
    auroc,
    average_precision,
    pointing_game,
    relevance_mass,
    relevance_rank,
)
from medcam.evaluation.surface import assd, centroid_distance, hd95

OptionName = Literal["threshold", "spacing", "tolerance_mm"]


@dataclass(frozen=True)
class Options:
    """Options of all metrics; `medcam.evaluation.score.check_options` validates them.

    Attributes:
        threshold: ``'otsu'`` or τ from 0 to 1.
        spacing: Voxel size in mm along each axis; None: 1 mm each.
        tolerance_mm: Largest distance in mm that counts as a hit in the pointing game.
    """

    threshold: str | float = "otsu"
    spacing: tuple[float, ...] | None = None
    tolerance_mm: float = 0.0


@dataclass(frozen=True)
class Metric:
    """One metric of a map against a mask.

    Attributes:
        title: The metric's name in words.
        function: ``(attention [*space], mask [*space], **options)`` → score.
        options: The fields of `Options` that ``function`` takes as keywords.
        higher_is_better: Whether a higher score is better.
        unit: ``""`` for a share from 0 to 1, ``"mm"`` for a distance.
        chance: ``(mask, **options)`` → the expected score of a map that does not depend on the
            mask; None if that score also depends on the map's values.
    """

    title: str
    function: Callable[..., float]
    options: tuple[OptionName, ...] = ()
    higher_is_better: bool = True
    unit: Literal["", "mm"] = ""
    chance: Callable[..., float] | None = None

    @property
    def thresholded(self) -> bool:
        """Whether the score depends on a threshold."""
        return "threshold" in self.options

    @property
    def is_distance(self) -> bool:
        """Whether the score is a distance between the attended region and the mask."""
        return self.unit == "mm"

    def score(
        self,
        attention: Float[np.ndarray, "*space"],
        mask: Bool[np.ndarray, "*space"],
        options: Options,
    ) -> float:
        """Return the score of a map, computed with the options that this metric takes.

        Example:
            >>> attention, mask = np.array([[0.0, 0.4, 1.0]]), np.array([[False, True, True]])
            >>> METRICS["iou"].score(attention, mask, Options(threshold=0.5))
            0.5
        """
        keywords = {name: getattr(options, name) for name in self.options}
        return self.function(attention, mask, **keywords)

    def chance_level(self, mask: Bool[np.ndarray, "*space"], options: Options) -> float | None:
        """Return the score that is reached by chance on this mask; None where undefined.

        Example:
            >>> METRICS["wioa"].chance_level(np.array([[False, True]]), Options())
            0.5
        """
        if self.chance is None:
            return None
        keywords = {name: getattr(options, name) for name in self.options if name != "threshold"}
        return self.chance(mask, **keywords)


_DISTANCE: tuple[OptionName, ...] = ("threshold", "spacing")

METRICS: dict[str, Metric] = {
    "wioa": Metric("Weighted intersection over attention", wioa, ("threshold",), chance=area_share),
    "ioa": Metric("Intersection over attention", ioa, ("threshold",), chance=area_share),
    "iou": Metric("Intersection over union", iou, ("threshold",)),
    "wiou": Metric("Soft intersection over union", wiou),
    "dice": Metric("Dice coefficient", dice, ("threshold",)),
    "pointing_game": Metric(
        "Pointing game", pointing_game, ("spacing", "tolerance_mm"), chance=grown_area_share
    ),
    "relevance_mass": Metric("Relevance mass", relevance_mass, chance=area_share),
    "relevance_rank": Metric("Relevance rank", relevance_rank, chance=area_share),
    "auroc": Metric("Area under the ROC curve", auroc, chance=one_half),
    "average_precision": Metric("Average precision", average_precision, chance=area_share),
    "hd95": Metric("95 % Hausdorff distance", hd95, _DISTANCE, False, "mm"),
    "assd": Metric("Average symmetric surface distance", assd, _DISTANCE, False, "mm"),
    "centroid_distance": Metric("Centroid distance", centroid_distance, _DISTANCE, False, "mm"),
}
