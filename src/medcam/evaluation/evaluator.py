"""Scores of many attention maps, gathered, averaged and saved."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcam.engine.target.scores import name_of
from medcam.errors import warn
from medcam.evaluation.chart import mean_scores_chart
from medcam.evaluation.metrics import METRICS, Metric
from medcam.evaluation.score import MetricFunction, check_metric, check_options, score_and_chance
from medcam.evaluation.table import Row, about_table, mean_table, plain, score_table, select
from medcam.evaluation.workbook import to_workbook
from medcam.files.atomic import write_atomically
from medcam.views.figures import save_figure

if TYPE_CHECKING:
    import pandas as pd


class Evaluator:
    """Scores maps against masks, keeps every score, and saves them with their means.

    Args:
        save_path: The folder that ``dump`` writes to; created then if need be.
        metric: As in ``medcam.compute_score``.
        threshold: As in ``medcam.compute_score``.
        layer_ordering: The order of the layers in the means. Layers that it does not name follow in
            the order of their appearance.
        spacing: As in ``medcam.compute_score``.
        tolerance_mm: As in ``medcam.compute_score``.

    Raises:
        InputError: A metric, threshold, spacing or tolerance that does not exist.

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
    ) -> None:
        self.save_path = Path(save_path)
        self.metric = check_metric(metric)
        self.layer_ordering = layer_ordering
        self._options = check_options(threshold, spacing, tolerance_mm)
        self._rows: list[Row] = []

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
        """Gives the score of a map against a mask, and keeps it.

        Args:
            attention_map: As in ``medcam.compute_score``, which also says what is raised.
            mask: As in ``medcam.compute_score``.
            layer: The layer that the map is of.
            class_label: The class that the map is of.
            name: What tells this sample from others, e.g. the file name of the mask.
            spacing: This sample's voxel size in mm, where it is not the evaluator's.

        Returns:
            The score; NaN where it is undefined. It is kept then, too, and counted.
        """
        options = self._options
        if spacing is not None:
            options = check_options(options.threshold, spacing, options.tolerance_mm)
        score = score_and_chance(attention_map, mask, self.metric, options)
        self._rows.append(
            Row(score.value, plain(layer), plain(class_label), plain(name), score.chance)
        )
        return score.value

    @property
    def scores(self) -> pd.DataFrame:
        """Every score: evaluation, layer, class_label, name [, chance, lift].

        ``lift`` is the score over the chance level of its mask; both are there if the metric has a
        chance level.
        """
        return score_table(self._rows, with_chance=self._with_chance)

    @property
    def mean_scores(self) -> pd.DataFrame:
        """The means: mean_score, layer, class_label, count, nan_count [, chance, lift].

        Of the ``count`` scores of a layer and class, ``nan_count`` are NaN and left out.
        """
        return self._means(self._rows)

    def dump(
        self,
        mean_only: bool = False,
        layer: Hashable = None,
        class_label: Hashable = None,
    ) -> Path:
        """Writes ``scores.xlsx`` (sheets "Scores", "Mean Scores", "About") and ``mean_scores.png``.

        Each file is complete or not there at all. Older files of these names are replaced, so that
        each metric needs a folder, and an evaluator, of its own. "About" says what was measured.

        Args:
            mean_only: Leaves the sheet "Scores" out.
            layer: Only the scores of this layer.
            class_label: Only the scores of this class.

        Returns:
            The path of ``scores.xlsx``.

        Raises:
            UnknownNameError: Nothing was scored for this layer or class.
            SaveError: A file could not be written.

        Warns:
            MedcamWarning: Some scores are NaN, or there are none.
        """
        rows = select(self._rows, "layer", plain(layer))
        rows = select(rows, "class_label", plain(class_label))
        means = self._means(rows)
        tables = {"Mean Scores": means}
        if not mean_only:
            tables = {"Scores": score_table(rows, with_chance=self._with_chance), **tables}
        tables["About"] = about_table(
            self._known.title if self._known else name_of(self.metric),
            self._known.unit if self._known else None,
            self._options,
            with_chance=self._with_chance,
        )
        figure = (
            mean_scores_chart(means, title=self._known.title, unit=self._known.unit)
            if self._known
            else mean_scores_chart(means, title=name_of(self.metric), unit=None)
        )
        path = write_atomically(self.save_path / "scores.xlsx", to_workbook(tables).save)
        write_atomically(self.save_path / "mean_scores.png", lambda file: save_figure(figure, file))
        self._warn_of_gaps(rows)
        return path

    def _means(self, rows: Sequence[Row]) -> pd.DataFrame:
        return mean_table(rows, with_chance=self._with_chance, layer_ordering=self.layer_ordering)

    @property
    def _known(self) -> Metric | None:
        """What the registry knows of the metric; None for a callable."""
        return METRICS[self.metric] if isinstance(self.metric, str) else None

    @property
    def _with_chance(self) -> bool:
        return self._known is not None and self._known.chance is not None

    def _warn_of_gaps(self, rows: Sequence[Row]) -> None:
        gaps = sum(row.evaluation != row.evaluation for row in rows)
        if not rows:
            message = "No score was recorded: the tables are empty. Call comp_score(map, mask)."
        elif gaps:
            message = (
                f"{gaps} of {len(rows)} scores are NaN (an empty mask, or a map without contrast); "
                "they are left out of the means and counted in nan_count."
            )
        else:
            return
        warn(message)
