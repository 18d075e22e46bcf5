"""From single scores to tables: one row per score, and their means by layer and class."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medcam.errors import unknown_name
from medcam.evaluation.metrics import Options

if TYPE_CHECKING:
    import pandas as pd

SCORE_COLUMNS = ("evaluation", "layer", "class_label", "name")
MEAN_COLUMNS = ("mean_score", "layer", "class_label", "count", "nan_count")
CHANCE_COLUMNS = ("chance", "lift")


@dataclass(frozen=True)
class Row:
    """One score and what it is the score of.

    Attributes:
        evaluation: The score; NaN where undefined.
        layer: The layer's name.
        class_label: The class.
        name: What tells this sample from others, e.g. the file name of its mask.
        chance: What chance alone reaches on this mask; None without such a level.
    """

    evaluation: float
    layer: Hashable = None
    class_label: Hashable = None
    name: Hashable = None
    chance: float | None = None

    @property
    def lift(self) -> float:
        """The score over the chance level: 1 is no better than chance. NaN where undefined.

        Example:
            >>> Row(0.6, chance=0.2).lift
            2.9999999999999996
        """
        return self.evaluation / self.chance if self.chance else nan


def plain(label: Any) -> Hashable:
    """Gives a label as a plain value: a number for a tensor or numpy scalar, text for a list.

    Example:
        >>> plain(torch.tensor(3)), plain("layer4"), plain([1, 2])
        (3, 'layer4', '[1, 2]')
    """
    if isinstance(label, torch.Tensor | np.ndarray | np.generic):
        label = label.tolist()
    return label if isinstance(label, Hashable) else str(label)


def select(rows: Sequence[Row], field: str, wanted: Hashable) -> Sequence[Row]:
    """Gives the rows of one layer or class; all of them for None.

    Args:
        rows: The scores.
        field: ``"layer"`` or ``"class_label"``.
        wanted: Its value.

    Raises:
        UnknownNameError: There is no such row.

    Example:
        >>> [row.evaluation for row in select([Row(0.1, "a"), Row(0.2, "b")], "layer", "b")]
        [0.2]
    """
    if wanted is None:
        return rows
    known = dict.fromkeys(getattr(row, field) for row in rows)
    if wanted not in known:
        kind = {"layer": "Scored layer", "class_label": "Scored class"}[field]
        raise unknown_name(
            kind, wanted, map(str, known), more="Evaluator.scores lists what was scored."
        )
    return [row for row in rows if getattr(row, field) == wanted]


def score_table(rows: Iterable[Row], *, with_chance: bool) -> pd.DataFrame:
    """Gives one line per score: evaluation, layer, class_label, name [, chance, lift].

    Example:
        >>> score_table([Row(0.5, "layer4", 1, "case 7", 0.25)], with_chance=True)
           evaluation   layer class_label    name  chance  lift
        0         0.5  layer4           1  case 7    0.25   2.0
    """
    columns = (*SCORE_COLUMNS, *(CHANCE_COLUMNS if with_chance else ()))
    return _frame([[getattr(row, column) for column in columns] for row in rows], columns)


def mean_table(
    rows: Iterable[Row], *, with_chance: bool, layer_ordering: Sequence[Hashable] | None = None
) -> pd.DataFrame:
    """Gives one line per layer and class: mean_score, layer, class_label, count, nan_count [, …].

    NaN scores are counted in ``count`` and ``nan_count`` but left out of ``mean_score``, ``chance``
    and ``lift``, which are the means of those of the single scores.

    Args:
        rows: The scores.
        with_chance: Whether the metric has a chance level; if so, chance and lift close the table.
        layer_ordering: The order of the layers. Others follow in the order of their appearance.

    Example:
        >>> mean_table([Row(0.5, "a"), Row(nan, "a"), Row(0.7, "a")], with_chance=False)
           mean_score layer class_label  count  nan_count
        0         0.6     a        None      3          1
    """
    groups: dict[Hashable, dict[Hashable, list[Row]]] = {}
    for row in rows:
        groups.setdefault(row.layer, {}).setdefault(row.class_label, []).append(row)
    wanted = list(dict.fromkeys(layer_ordering or ()))
    layers = [layer for layer in wanted if layer in groups]
    layers += [layer for layer in groups if layer not in wanted]
    lines: list[list[object]] = []
    for layer in layers:
        for class_label, members in groups[layer].items():
            defined = [row for row in members if not isnan(row.evaluation)]
            line = [_mean([row.evaluation for row in defined]), layer, class_label]
            line += [len(members), len(members) - len(defined)]
            if with_chance:
                line.append(_mean([row.chance for row in defined if row.chance is not None]))
                line.append(_mean([row.lift for row in defined]))
            lines.append(line)
    return _frame(lines, (*MEAN_COLUMNS, *(CHANCE_COLUMNS if with_chance else ())))


def about_table(
    metric: str, unit: str | None, options: Options, *, with_chance: bool
) -> pd.DataFrame:
    """Gives what was measured, and how the other sheets are read, one line each.

    Args:
        metric: Its title.
        unit: ``""`` for shares, ``"mm"``, or None where unknown.
        options: How it was measured.
        with_chance: Whether the metric has a chance level.

    Example:
        >>> about_table("Dice coefficient", "", Options(), with_chance=True)["value"].tolist()[:2]
        ['Dice coefficient', 'a share, from 0 to 1']
    """
    lines = [
        ("metric", metric),
        ("unit", {"": "a share, from 0 to 1", None: "not known"}.get(unit, unit)),
        ("threshold", str(options.threshold)),
        ("voxel size in mm", _spacing(options.spacing)),
        ("tolerance in mm", str(options.tolerance_mm)),
        ("NaN", "not defined: an empty mask, or a map without contrast; left out of the means"),
        ("name", "of inject: call, sample and target, each counted from 0"),
    ]
    if with_chance:
        lines.append(("chance", "what a map without any knowledge reaches on this mask"))
        lines.append(("lift", "the score over the chance level: 1 is no better than chance"))
    lines.append(("medcam", version("m3d-cam")))
    return _frame([list(line) for line in lines], ("what", "value"))


def _spacing(spacing: Sequence[float] | None) -> str:
    if spacing is None:
        return "each map's own where it is known, else 1"
    return " x ".join(f"{size:g}" for size in spacing)


def _mean(values: Sequence[float]) -> float:
    """Gives the mean; NaN of nothing."""
    return sum(values) / len(values) if values else nan


def _frame(lines: list[list[object]], columns: Sequence[str]) -> pd.DataFrame:
    """Gives a table whose numbers are numbers, and whose names stay what they were."""
    import pandas as pd  # costly to import

    kinds = dict.fromkeys(("evaluation", "mean_score", *CHANCE_COLUMNS), "float64")
    kinds |= dict.fromkeys(("count", "nan_count"), "int64")
    values = list(zip(*lines, strict=True)) or [()] * len(columns)
    return pd.DataFrame(
        {
            column: pd.Series(list(part), dtype=kinds.get(column, "object"))
            for column, part in zip(columns, values, strict=True)
        }
    )
