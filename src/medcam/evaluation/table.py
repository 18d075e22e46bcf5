"""Tables of scores: one row per score, and the means by layer and class."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import isnan, nan
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from medcam.errors import unknown_name
from medcam.evaluation.metrics import Options

if TYPE_CHECKING:
    import pandas as pd

SCORE_COLUMNS = ("evaluation", "layer", "class_label", "name")
MEAN_COLUMNS = ("mean_score", "layer", "class_label", "count", "nan_count")
CHANCE_COLUMNS = ("chance", "lift")
LESION_COLUMNS = ("lesion", "diameter_mm", "voxels", "hit")


@dataclass(frozen=True)
class ScoreRow:
    """One score with the layer, class and sample that it belongs to.

    Attributes:
        evaluation: The score; NaN where undefined.
        layer: The layer's name.
        class_label: The class.
        name: The sample's name, e.g. the file name of its mask.
        chance: The chance level on this mask; None if the metric has none.
        lesion: The lesion's number in its mask; None where no lesion is scored by itself.
        diameter_mm: The lesion's diameter in mm.
        voxels: The lesion's number of voxels.
        hit: The pointing game of the lesion.
        hit_chance: The chance level of ``hit``.
    """

    evaluation: float
    layer: Hashable = None
    class_label: Hashable = None
    name: Hashable = None
    chance: float | None = None
    lesion: int | None = None
    diameter_mm: float = nan
    voxels: int | None = None
    hit: float = nan
    hit_chance: float = nan

    @property
    def lift(self) -> float:
        """The score divided by the chance level: 1 is no better than chance. NaN where undefined.

        Example:
            >>> ScoreRow(0.6, chance=0.2).lift
            2.9999999999999996
        """
        return self.evaluation / self.chance if self.chance else nan


def plain_label(label: Any) -> Hashable:
    """Return a label as a plain value: a number for a tensor or NumPy scalar, text for a list.

    Example:
        >>> plain_label(torch.tensor(3)), plain_label("layer4"), plain_label([1, 2])
        (3, 'layer4', '[1, 2]')
    """
    if isinstance(label, torch.Tensor | np.ndarray | np.generic):
        label = label.tolist()
    return label if isinstance(label, Hashable) else str(label)


def rows_with(
    rows: Sequence[ScoreRow], field: Literal["layer", "class_label"], value: Hashable
) -> Sequence[ScoreRow]:
    """Return the rows of one layer or class; all rows if the value is None.

    Args:
        rows: The scores.
        field: Which field to compare.
        value: The field's value in the rows to return.

    Raises:
        UnknownNameError: There is no such row.

    Example:
        >>> rows = [ScoreRow(0.1, "a"), ScoreRow(0.2, "b")]
        >>> [row.evaluation for row in rows_with(rows, "layer", "b")]
        [0.2]
    """
    if value is None:
        return rows
    known = dict.fromkeys(getattr(row, field) for row in rows)
    if value not in known:
        kind = {"layer": "Scored layer", "class_label": "Scored class"}[field]
        raise unknown_name(
            kind, value, map(str, known), more="Evaluator.scores lists what was scored."
        )
    return [row for row in rows if getattr(row, field) == value]


def score_table(
    rows: Iterable[ScoreRow], *, with_chance: bool, with_lesion: bool = False
) -> pd.DataFrame:
    """Return a table with one row per score: evaluation, layer, class_label, name [, chance, lift].

    With ``with_lesion``, the columns lesion, diameter_mm, voxels and hit come before those two.

    Example:
        >>> score_table([ScoreRow(0.5, "layer4", 1, "case 7", 0.25)], with_chance=True)
           evaluation   layer class_label    name  chance  lift
        0         0.5  layer4           1  case 7    0.25   2.0
    """
    columns = (*SCORE_COLUMNS, *(LESION_COLUMNS if with_lesion else ()))
    columns += CHANCE_COLUMNS if with_chance else ()
    return data_frame([[getattr(row, column) for column in columns] for row in rows], columns)


def mean_table(
    rows: Iterable[ScoreRow],
    *,
    with_chance: bool,
    layer_ordering: Sequence[Hashable] | None = None,
) -> pd.DataFrame:
    """Return a table of means with one row per layer and class.

    The columns are mean_score, layer, class_label, count, nan_count [, chance, lift]. NaN scores
    are part of ``count`` and ``nan_count`` but not of the means. ``lift`` is the mean of the single
    scores' lifts.

    Args:
        rows: The scores.
        with_chance: Whether the metric has a chance level, and the table its two columns.
        layer_ordering: The order of the layers. Others follow in the order of their appearance.

    Example:
        >>> rows = [ScoreRow(0.5, "a"), ScoreRow(nan, "a"), ScoreRow(0.7, "a")]
        >>> mean_table(rows, with_chance=False)
           mean_score layer class_label  count  nan_count
        0         0.6     a        None      3          1
    """
    lines = [
        mean_line(members, layer, class_label, with_chance=with_chance)
        for layer, class_label, members in grouped(rows, layer_ordering)
    ]
    return data_frame(lines, (*MEAN_COLUMNS, *(CHANCE_COLUMNS if with_chance else ())))


def grouped(
    rows: Iterable[ScoreRow], layer_ordering: Sequence[Hashable] | None = None
) -> Iterator[tuple[Hashable, Hashable, list[ScoreRow]]]:
    """Yield the rows of each layer and class, in the order of `mean_table`.

    Example:
        >>> rows = [ScoreRow(0.1, "a", 1), ScoreRow(0.2, "b"), ScoreRow(0.3, "a", 1)]
        >>> [(layer, label, len(members)) for layer, label, members in grouped(rows, ["b"])]
        [('b', None, 1), ('a', 1, 2)]
    """
    groups: dict[Hashable, dict[Hashable, list[ScoreRow]]] = {}
    for row in rows:
        groups.setdefault(row.layer, {}).setdefault(row.class_label, []).append(row)
    ordering = list(dict.fromkeys(layer_ordering or ()))
    layers = [layer for layer in ordering if layer in groups]
    layers += [layer for layer in groups if layer not in ordering]
    for layer in layers:
        for class_label, members in groups[layer].items():
            yield layer, class_label, members


def mean_line(
    members: Sequence[ScoreRow], layer: Hashable, class_label: Hashable, *, with_chance: bool
) -> list[object]:
    """Return a line of `mean_table`: the means of the scores of a layer and class."""
    defined = [row for row in members if not isnan(row.evaluation)]
    line: list[object] = [mean([row.evaluation for row in defined]), layer, class_label]
    line += [len(members), len(members) - len(defined)]
    if with_chance:
        line.append(mean([row.chance for row in defined if row.chance is not None]))
        line.append(mean([row.lift for row in defined]))
    return line


def about_table(
    metric: str,
    unit: str | None,
    options: Options,
    *,
    with_chance: bool,
    more: Iterable[tuple[str, str]] = (),
) -> pd.DataFrame:
    """Return a table that explains the other sheets: the metric, its options and the columns.

    Args:
        metric: The metric's title.
        unit: ``""`` for shares, ``"mm"``, or None where unknown.
        options: The options of the scores.
        with_chance: Whether the metric has a chance level.
        more: Further lines, before the version.

    Example:
        >>> about_table("Dice coefficient", "", Options(), with_chance=True)["value"].tolist()[:2]
        ['Dice coefficient', 'a share, from 0 to 1']
    """
    lines = [
        ("metric", metric),
        ("unit", {"": "a share, from 0 to 1", None: "not known"}.get(unit, unit)),
        ("threshold", str(options.threshold)),
        ("voxel size in mm", _spacing_text(options.spacing)),
        ("tolerance in mm", str(options.tolerance_mm)),
        (
            "NaN",
            "not defined: an empty mask, a constant map, or no map; left out of the means",
        ),
        ("name", "of inject: call, sample and target, each counted from 0"),
    ]
    if with_chance:
        lines.append(("chance", "what a map without any knowledge reaches on this mask"))
        lines.append(("lift", "the score over the chance level: 1 is no better than chance"))
    lines += more
    lines.append(("medcam", version("m3d-cam")))
    return data_frame([list(line) for line in lines], ("what", "value"))


def _spacing_text(spacing: Sequence[float] | None) -> str:
    if spacing is None:
        return "each map's own where it is known, else 1"
    return " x ".join(f"{size:g}" for size in spacing)


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN for no values.

    Example:
        >>> mean([1.0, 2.0]), mean([])
        (1.5, nan)
    """
    return sum(values) / len(values) if values else nan


def data_frame(lines: list[list[object]], columns: Sequence[str]) -> pd.DataFrame:
    """Return lines as a table: float64 scores, int64 counts, and all other columns as objects.

    Example:
        >>> data_frame([[0.5, "layer4"]], ("mean_score", "layer"))
           mean_score   layer
        0         0.5  layer4
    """
    import pandas as pd  # costly to import

    dtypes = dict.fromkeys(("evaluation", "mean_score", *CHANCE_COLUMNS), "float64")
    dtypes |= dict.fromkeys(("diameter_mm", "hit", "hit_share", "hit_chance"), "float64")
    dtypes |= dict.fromkeys(("count", "nan_count"), "int64")
    values = list(zip(*lines, strict=True)) or [()] * len(columns)
    return pd.DataFrame(
        {
            column: pd.Series(list(entries), dtype=dtypes.get(column, "object"))
            for column, entries in zip(columns, values, strict=True)
        }
    )
