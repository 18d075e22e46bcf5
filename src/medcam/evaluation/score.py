"""The score of one map against one mask, from arguments of any kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from medcam.errors import InputError, InputTypeError, unknown_name
from medcam.evaluation.inputs import attention_array, mask_array, match_ranks, resample_to_mask
from medcam.evaluation.metrics import METRICS, Options
from medcam.evaluation.thresholds import check_threshold

MetricFunction = Callable[[np.ndarray, np.ndarray], float]


class Score(NamedTuple):
    """A score and its chance level on that mask; None if the metric has no chance level."""

    value: float
    chance: float | None


def compute_score(
    attention_map: Any,
    mask: Any,
    metric: str | MetricFunction = "wioa",
    threshold: str | float = "otsu",
    *,
    spacing: Sequence[float] | None = None,
    tolerance_mm: float = 0.0,
) -> float:
    """Return the score of an attention map against a ground-truth mask.

    If their shapes differ, the map is resampled to the mask's grid: along each axis linearly
    (align_corners=False) where it grows, by area where it shrinks. The absolute values of a map
    with negative values are scored, taken before resampling. A map that is constant up to rounding
    (four steps of its dtype, or of float32 if that is finer) is scored as constant.

    Args:
        attention_map: Array or tensor ``[*space]`` of one sample, of any real dtype, on any device.
            Leading axes of size 1 are dropped where the mask has fewer axes, and vice versa.
        mask: Array or tensor ``[*space]`` of 0 and 1, of any dtype: 1 where the finding is.
        metric: A name in `medcam.evaluation.METRICS`, or a callable. A callable takes two arrays of
            equal shape, the raw map on the mask's grid (float64, signs kept) and the mask (bool),
            and returns a number.
        threshold: ``'otsu'`` or a number from 0 to 1; the attended region is where the map,
            normalised to [0, 1], reaches it. Only the overlap and distance metrics use it.
        spacing: Voxel size in mm along each axis of the mask; 1 mm each by default. Only the
            metrics in mm and the tolerance use it.
        tolerance_mm: Largest distance between maximum and mask that counts as a hit in the pointing
            game.

    Returns:
        The score; NaN where it is undefined, e.g. for an empty mask.

    Raises:
        InputError: NaN or infinity in the map; a threshold, spacing or tolerance out of range.
        UnknownNameError: There is no metric of this name.
        MaskError: The mask is not 0/1, or of another rank than the map.
        InputTypeError: An argument is of a type that cannot be used.

    Example:
        >>> mask = np.array([[0, 1], [1, 0]])
        >>> compute_score(np.array([[0.0, 5.0], [2.0, 3.0]]), mask, "relevance_mass")
        0.7
        >>> compute_score(np.array([[0.0, 5.0], [2.0, 3.0]]), mask, lambda a, m: a[m].max())
        5.0
    """
    options = check_options(threshold, spacing, tolerance_mm)
    return score_and_chance(attention_map, mask, check_metric(metric), options).value


def score_and_chance(
    attention_map: Any, mask: Any, metric: str | MetricFunction, options: Options
) -> Score:
    """Return the score of `compute_score` together with its chance level.

    Args:
        attention_map: As in `compute_score`.
        mask: As in `compute_score`.
        metric: As `check_metric` returns it.
        options: As `check_options` returns them.

    Example:
        >>> score_and_chance(np.eye(2), np.eye(2), "ioa", Options())
        Score(value=1.0, chance=0.5)
    """
    attention, truth = on_one_grid(attention_map, mask, metric, options)
    return score_of_arrays(attention, truth, metric, options)


def on_one_grid(
    attention_map: Any, mask: Any, metric: str | MetricFunction, options: Options
) -> tuple[Float[np.ndarray, "*space"], Bool[np.ndarray, "*space"]]:
    """Return the map as its metric takes it and the mask, both on the mask's grid.

    Arguments as in `score_and_chance`.

    Example:
        >>> on_one_grid(np.array([-1.0, 2.0]), np.array([0, 1]), "auroc", Options())
        (array([1., 2.]), array([False,  True]))
    """
    raw, truth = match_ranks(attention_array(attention_map), mask_array(mask), options.spacing)
    if isinstance(metric, str) and raw.min() < 0:
        raw = np.abs(raw)
    return resample_to_mask(raw, truth.shape), truth


def score_of_arrays(
    attention: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    metric: str | MetricFunction,
    options: Options,
) -> Score:
    """Return the score of what `on_one_grid` returns, together with its chance level.

    Example:
        >>> score_of_arrays(np.array([1.0, 3.0]), np.array([False, True]), "auroc", Options())
        Score(value=1.0, chance=0.5)
    """
    if not isinstance(metric, str):
        return Score(_as_number(metric(attention, mask)), None)
    entry = METRICS[metric]
    return Score(entry.score(attention, mask, options), entry.chance_level(mask, options))


def check_metric(metric: Any) -> str | MetricFunction:
    """Validate a metric and return it: a known name or a callable.

    Raises:
        UnknownNameError: There is no metric of this name.
        InputTypeError: Neither a name nor a callable.

    Example:
        >>> check_metric("dice")
        'dice'
    """
    if isinstance(metric, str):
        if metric not in METRICS:
            raise unknown_name("Metric", metric, METRICS, more="A callable(map, mask) works too.")
        return metric
    if not callable(metric):
        raise InputTypeError(
            f"The metric is a {type(metric).__name__}: {metric!r}. Give one of "
            f"{', '.join(METRICS)}, or a callable(map, mask) that returns a number."
        )
    function: MetricFunction = metric
    return function


def check_options(threshold: Any, spacing: Any, tolerance_mm: Any) -> Options:
    """Validate the options of a score and return them as `Options`.

    Args:
        threshold: As in `compute_score`.
        spacing: As in `compute_score`.
        tolerance_mm: As in `compute_score`.

    Raises:
        InputError: A value is out of range.
        InputTypeError: A value is of a type that cannot be used.

    Example:
        >>> check_options("otsu", (3, 0.5), 0)
        Options(threshold='otsu', spacing=(3.0, 0.5), tolerance_mm=0.0)
    """
    if isinstance(tolerance_mm, bool) or not isinstance(tolerance_mm, Real):
        raise InputTypeError(f"tolerance_mm is {tolerance_mm!r}: give a number of mm, 0 or more.")
    if not 0 <= float(tolerance_mm) < math.inf:
        raise InputError(f"tolerance_mm is {tolerance_mm}: give a number of mm, 0 or more.")
    voxel_size = None
    if spacing is not None:
        try:
            voxel_size = tuple(float(size) for size in spacing)
        except (TypeError, ValueError):
            raise InputTypeError(
                f"spacing is {spacing!r}: give one number of mm per axis, e.g. (1.0, 0.7, 0.7)."
            ) from None
        if not voxel_size or not all(0 < size < math.inf for size in voxel_size):
            raise InputError(f"spacing is {voxel_size}: give one positive number of mm per axis.")
    return Options(check_threshold(threshold), voxel_size, float(tolerance_mm))


def _as_number(result: Any) -> float:
    """Return the result of a callable metric as a float."""
    try:
        return float(result)
    except (TypeError, ValueError):
        raise InputTypeError(
            f"The metric returned a {type(result).__name__}; it must return one number."
        ) from None
