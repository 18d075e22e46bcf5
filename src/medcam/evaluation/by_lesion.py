"""The scores of one map by lesion: each connected component of the mask is scored by itself.

The voxels of the other lesions are left out: they count neither for a lesion nor against it,
whatever the map is there. Most metrics only need the values in and outside the mask, and get those
of the remaining voxels. The tolerance of the pointing game grows the lesion before. Distances are
those of the attended region of the remaining voxels, which Otsu's threshold is also computed from.
Chance levels are those among the remaining voxels.
"""

from __future__ import annotations

import dataclasses
import warnings
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from medcam.errors import MedcamWarning
from medcam.evaluation.chance import grow_mask
from medcam.evaluation.components import Lesion, connected_components
from medcam.evaluation.inputs import rounding_step, without_rounding
from medcam.evaluation.metrics import METRICS, Metric, Options
from medcam.evaluation.score import MetricFunction, Score, on_one_grid, score_of_arrays
from medcam.evaluation.thresholds import attended_region


class LesionScore(NamedTuple):
    """The score of a map against one lesion.

    Attributes:
        lesion: The lesion.
        score: The score and its chance level.
        hit: The pointing game of this lesion, 1 for a hit, and its chance level.
    """

    lesion: Lesion
    score: Score
    hit: Score


def scores_by_lesion(
    attention_map: Any, mask: Any, metric: str | MetricFunction, options: Options
) -> list[LesionScore]:
    """Return the score of each lesion of a mask, the largest lesion first.

    Of a callable metric, the map has on the other lesions the remaining value that is nearest to 0.

    Args:
        attention_map: As in `medcam.compute_score`.
        mask: As in `medcam.compute_score`; each connected component is a lesion.
        metric: As `check_metric` returns it.
        options: As `check_options` returns them.

    Example:
        >>> attention, mask = np.array([[4.0, 1.0, 1.0, 8.0]]), np.array([[1, 0, 0, 1]])
        >>> for entry in scores_by_lesion(attention, mask, "relevance_mass", Options()):
        ...     print(entry.lesion.number, round(entry.score.value, 3), entry.hit.value)
        1 0.667 1.0
        2 0.8 1.0
    """
    attention, truth = on_one_grid(attention_map, mask, metric, options)
    step = max(rounding_step(attention_map), float(np.finfo(np.float64).eps))  # it was resampled
    pointing = METRICS["pointing_game"]
    strengths = attention
    if not isinstance(metric, str):  # it takes signs; a hit is that of the magnitude
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MedcamWarning)  # it was said above
            strengths, _ = on_one_grid(attention_map, mask, "pointing_game", options)
    scores = []
    for lesion in connected_components(truth, options.spacing):
        inside, counted = lesion.mask, ~lesion.others
        hit = _score_of_counted(strengths, inside, counted, pointing, options, step)
        if isinstance(metric, str):
            entry = METRICS[metric]
            score = _score_of_counted(attention, inside, counted, entry, options, step)
        else:
            neutral = _neutral_outside(attention, counted, step)
            score = score_of_arrays(neutral, inside, metric, options)
        scores.append(LesionScore(lesion, score, hit))
    return scores


def mean_of_lesions(scores: list[LesionScore]) -> Score:
    """Return the mean score of the lesions and its chance level; NaN scores are left out.

    Example:
        >>> mean_of_lesions([])
        Score(value=nan, chance=nan)
    """
    defined = [entry.score for entry in scores if not isnan(entry.score.value)]
    if not defined:
        return Score(nan, nan)
    chances = [score.chance for score in defined if score.chance is not None]
    return Score(
        sum(score.value for score in defined) / len(defined),
        sum(chances) / len(chances) if chances else None,
    )


def _score_of_counted(
    attention: Float[np.ndarray, "*space"],
    lesion: Bool[np.ndarray, "*space"],
    counted: Bool[np.ndarray, "*space"],
    entry: Metric,
    options: Options,
    step: float,
) -> Score:
    """Return the score and the chance level of a registered metric among the counted voxels.

    Args:
        attention: The map, ≥ 0, on the mask's grid.
        lesion: The voxels of the lesion.
        counted: All voxels but those of other lesions.
        entry: The metric.
        options: Its options.
        step: The map's relative rounding step.
    """
    if counted.all():
        return Score(entry.score(attention, lesion, options), entry.chance_level(lesion, options))
    values = without_rounding(attention[counted], step)
    if entry.is_distance:
        region = np.zeros(attention.shape)
        region[counted] = attended_region(values, options.threshold)[1]
        # {region ≥ 0.5} is the region again: it is not all of the image, as other lesions are not
        of_region = dataclasses.replace(options, threshold=0.5)
        return Score(entry.score(region, lesion, of_region), entry.chance_level(lesion, of_region))
    if "tolerance_mm" in entry.options:
        lesion = grow_mask(lesion, options.spacing, options.tolerance_mm)
        options = dataclasses.replace(options, spacing=None, tolerance_mm=0.0)
    inside = lesion[counted]
    return Score(entry.score(values, inside, options), entry.chance_level(inside, options))


def _neutral_outside(
    attention: Float[np.ndarray, "*space"], counted: Bool[np.ndarray, "*space"], step: float
) -> Float[np.ndarray, "*space"]:
    """Return the map with the counted value nearest to 0 at all voxels that do not count."""
    values = without_rounding(attention[counted], step)
    neutral: Float[np.ndarray, "*space"] = np.full(attention.shape, values[np.abs(values).argmin()])
    neutral[counted] = values
    return neutral
