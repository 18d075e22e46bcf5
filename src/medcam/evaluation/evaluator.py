"""`Evaluator`: collects the scores of many attention maps, averages and saves them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcam.engine.target.arguments import name_of
from medcam.errors import InputError, warn
from medcam.evaluation.by_lesion import mean_of_lesions, scores_by_lesion
from medcam.evaluation.by_size import ABOUT_LESIONS, check_size_edges, lesion_row, size_table
from medcam.evaluation.chance import below_chance, below_chance_message
from medcam.evaluation.chart import mean_scores_chart
from medcam.evaluation.metrics import METRICS, Metric
from medcam.evaluation.score import (
    MetricFunction,
    Score,
    check_metric,
    check_options,
    score_and_chance,
)
from medcam.evaluation.table import (
    ScoreRow,
    about_table,
    mean_table,
    plain_label,
    rows_with,
    score_table,
)
from medcam.evaluation.workbook import to_workbook
from medcam.files.atomic import write_atomically
from medcam.views.figures import save_figure

if TYPE_CHECKING:
    import pandas as pd


class Evaluator:
    """Collector of scores: computes, keeps, averages and saves the scores of many maps.

    Args:
        save_path: The folder that `dump` writes to; `dump` creates it if it does not exist.
        metric: As in `medcam.compute_score`.
        threshold: As in `medcam.compute_score`.
        layer_ordering: The order of the layers in the means. Other layers follow in the order of
            their appearance.
        spacing: As in `medcam.compute_score`.
        tolerance_mm: As in `medcam.compute_score`.
        by_lesion: Whether each connected component of a mask is scored by itself. The voxels of the
            other lesions are left out then: the map there counts neither for a lesion nor against
            it, and the chance level is that of the remaining voxels. What surrounds the other
            lesions counts. A callable metric gets the whole map, with the remaining value nearest
            to 0 on the other lesions. All means are of lesions.
        size_edges_mm: The edges in mm of the size classes of `scores_by_size`; used with
            ``by_lesion`` only. Sizes are diameters of `medcam.evaluation.lesions`: where the
            spacing is unknown, a voxel counts as 1 mm.

    Raises:
        InputError: A metric, threshold, spacing, tolerance or size edge is not allowed.

    Example:
        >>> import numpy as np
        >>> evaluator = Evaluator("results", metric="relevance_mass")
        >>> evaluator.comp_score(np.array([[3.0, 1.0]]), np.array([[1, 0]]), layer="layer4")
        0.75
        >>> evaluator.mean_scores
           mean_score   layer class_label  count  nan_count  chance  lift
        0        0.75  layer4        None      1          0     0.5   1.5
    """

    def __init__(
        self,
        save_path: str | Path,
        metric: str | MetricFunction = "wioa",
        threshold: str | float = "otsu",
        layer_ordering: Sequence[Hashable] | None = None,
        *,
        spacing: Sequence[float] | None = None,
        tolerance_mm: float = 0.0,
        by_lesion: bool = False,
        size_edges_mm: Sequence[float] = (5, 10, 20),
    ) -> None:
        self.save_path = Path(save_path)
        self.metric = check_metric(metric)
        self.layer_ordering = layer_ordering
        self.by_lesion = by_lesion
        self.size_edges_mm = check_size_edges(size_edges_mm)
        self._options = check_options(threshold, spacing, tolerance_mm)
        self._rows: list[ScoreRow] = []
        self._below_chance: set[object] = set()

    @property
    def threshold(self) -> str | float:
        """The threshold: ``'otsu'`` or a number from 0 to 1."""
        return self._options.threshold

    def comp_score(
        self,
        attention_map: Any,
        mask: Any,
        layer: Hashable = None,
        class_label: Hashable = None,
        name: Hashable = None,
        *,
        spacing: Sequence[float] | None = None,
    ) -> float:
        """Return the score of a map against a mask, and keep it.

        Raises the errors of `medcam.compute_score`; nothing is kept then.

        Args:
            attention_map: As in `medcam.compute_score`.
            mask: As in `medcam.compute_score`.
            layer: The layer of the map.
            class_label: The class of the map.
            name: The sample's name in the table, e.g. the file name of the mask.
            spacing: This sample's voxel size in mm; None: the evaluator's.

        Returns:
            The score; NaN where it is undefined. NaN scores are kept, too. With ``by_lesion`` the
            mean of the lesions' scores, without those that are NaN; NaN if there are none.
        """
        options = self._options
        if spacing is not None:
            options = check_options(options.threshold, spacing, options.tolerance_mm)
        labels = plain_label(layer), plain_label(class_label), plain_label(name)
        if self.by_lesion:
            lesions = scores_by_lesion(attention_map, mask, self.metric, options)
            score = mean_of_lesions(lesions)
            rows = [lesion_row(entry, *labels) for entry in lesions]
            rows = rows or [ScoreRow(math.nan, *labels, math.nan)]  # a sample without a lesion
        else:
            score = score_and_chance(attention_map, mask, self.metric, options)
            rows = [ScoreRow(score.value, *labels, score.chance)]
        self._warn_below_chance(score, layer)
        self._rows += rows
        return score.value

    def add_missing(
        self, layer: Hashable = None, class_label: Hashable = None, name: Hashable = None
    ) -> float:
        """Keep a score of NaN for a sample without a valid map, so that it is counted.

        Args:
            layer: As in `comp_score`.
            class_label: As in `comp_score`.
            name: As in `comp_score`.
        """
        labels = plain_label(layer), plain_label(class_label), plain_label(name)
        self._rows.append(ScoreRow(math.nan, *labels, math.nan))
        return math.nan

    def _warn_below_chance(self, score: Score, layer: object) -> None:
        """Warn once for each layer of a score below chance; a hit or a miss alone says little."""
        entry = METRICS.get(self.metric) if isinstance(self.metric, str) else None
        if entry is None or score.chance is None or layer in self._below_chance:
            return
        if self.metric != "pointing_game" and below_chance(score.value, score.chance):
            self._below_chance.add(layer)
            what = "A map" if layer is None else f"A map of layer {layer!r}"
            warn(below_chance_message(what, entry.title, score.value, score.chance))

    @property
    def scores(self) -> pd.DataFrame:
        """All scores: evaluation, layer, class_label, name [, chance, lift].

        ``lift`` is the score divided by the chance level on its mask. The two columns exist only if
        the metric has a chance level. With ``by_lesion`` there is a row for each lesion, and lesion
        (its number, the largest first), diameter_mm, voxels and hit (the pointing game of the
        lesion) come before those two. A sample without a lesion, or without a map, has a row with a
        score of NaN and no lesion.
        """
        return score_table(self._rows, with_chance=self._with_chance, with_lesion=self.by_lesion)

    @property
    def mean_scores(self) -> pd.DataFrame:
        """The means: mean_score, layer, class_label, count, nan_count [, chance, lift].

        Of the ``count`` scores of a layer and class, ``nan_count`` are NaN and left out.
        """
        return self._mean_table(self._rows)

    @property
    def scores_by_size(self) -> pd.DataFrame:
        """The means by size class; needs ``by_lesion=True``.

        The columns are mean_score, layer, class_label, size, count, nan_count [, chance, lift],
        hit_share, hit_chance. The sizes are classes such as "< 5 mm" and "5 to 10 mm", which
        include their lower edge. ``hit_share`` is the share of the lesions that the map's maximum
        lies in, without the other lesions, or as near to as ``tolerance_mm``; ``hit_chance`` is
        that of a map without any knowledge.

        Raises:
            InputError: The evaluator does not score lesions by themselves.
        """
        return self._size_table(self._rows)

    def dump(
        self,
        mean_only: bool = False,
        layer: Hashable = None,
        class_label: Hashable = None,
    ) -> Path:
        """Write ``scores.xlsx`` (sheets "Scores", "Mean Scores", "About") and ``mean_scores.png``.

        With ``by_lesion`` there is also the sheet "By Size", with `scores_by_size`.

        Both writes are atomic and replace older files of these names, so use one folder and one
        evaluator per metric. The sheet "About" names the metric and its options.

        Args:
            mean_only: Whether to leave out the sheet "Scores".
            layer: Only save the scores of this layer; None: of all layers.
            class_label: Only save the scores of this class; None: of all classes.

        Returns:
            The path of ``scores.xlsx``.

        Raises:
            UnknownNameError: There is no score of this layer or class.
            SaveError: A file could not be written.

        Warns:
            MedcamWarning: Some scores are NaN, or there are none.
        """
        rows = rows_with(self._rows, "layer", plain_label(layer))
        rows = rows_with(rows, "class_label", plain_label(class_label))
        means = self._mean_table(rows)
        registered = self._registered
        title = registered.title if registered else name_of(self.metric)
        unit = registered.unit if registered else None
        tables = {"Mean Scores": means}
        if not mean_only:
            scores = score_table(rows, with_chance=self._with_chance, with_lesion=self.by_lesion)
            tables = {"Scores": scores, **tables}
        if self.by_lesion:
            tables["By Size"] = self._size_table(rows)
        tables["About"] = about_table(
            title, unit, self._options,
            with_chance=self._with_chance, more=ABOUT_LESIONS if self.by_lesion else (),
        )  # fmt: skip
        figure = mean_scores_chart(means, title=title, unit=unit)
        path = write_atomically(self.save_path / "scores.xlsx", to_workbook(tables).save)
        write_atomically(self.save_path / "mean_scores.png", lambda file: save_figure(figure, file))
        _warn_of_nan(rows)
        return path

    def _mean_table(self, rows: Sequence[ScoreRow]) -> pd.DataFrame:
        return mean_table(rows, with_chance=self._with_chance, layer_ordering=self.layer_ordering)

    def _size_table(self, rows: Sequence[ScoreRow]) -> pd.DataFrame:
        if not self.by_lesion:
            raise InputError(
                "The scores are of whole masks, which have no size: make the evaluator with "
                "Evaluator(..., by_lesion=True)."
            )
        return size_table(
            rows,
            self.size_edges_mm,
            with_chance=self._with_chance,
            layer_ordering=self.layer_ordering,
        )

    @property
    def _registered(self) -> Metric | None:
        """The metric's entry in the registry; None for a callable."""
        return METRICS[self.metric] if isinstance(self.metric, str) else None

    @property
    def _with_chance(self) -> bool:
        registered = self._registered
        return registered is not None and registered.chance is not None


def _warn_of_nan(rows: Sequence[ScoreRow]) -> None:
    """Warn if some scores are NaN, or if there are no scores."""
    undefined = sum(isnan(row.evaluation) for row in rows)
    if not rows:
        warn("No score was recorded: the tables are empty. Call comp_score(map, mask).")
    elif undefined:
        warn(
            f"{undefined} of {len(rows)} scores are NaN (an empty mask, a map without "
            "contrast, or a sample without a map); they are left out of the means and counted in "
            "nan_count."
        )
