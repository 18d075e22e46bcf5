"""The table of scores by lesion size: one row per layer, class and size class."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from medcam.errors import InputError, InputTypeError
from medcam.evaluation.by_lesion import LesionScore
from medcam.evaluation.table import (
    CHANCE_COLUMNS,
    MEAN_COLUMNS,
    ScoreRow,
    data_frame,
    grouped,
    mean,
    mean_line,
)

if TYPE_CHECKING:
    import pandas as pd

HIT_COLUMNS = ("hit_share", "hit_chance")

_ROUNDING = 1 + 1e-9
"""So that a diameter that equals an edge up to rounding is in the class above it."""

ABOUT_LESIONS = (
    ("scored by", "lesion: each connected component of the mask, without the voxels of the others"),
    ("lesion", "its number in the mask, the largest first; empty: no lesion, or no map"),
    ("diameter_mm", "of the ball of equal volume, in 2D of the circle of equal area"),
    ("voxels", "the number of the lesion's voxels"),
    (
        "hit",
        "1: the map's maximum, without the other lesions, is in it or as near as the tolerance",
    ),
    ("size", "the class of the lesion's diameter, which includes its lower bound"),
    ("hit_share", "the mean of the lesions' hits"),
    ("hit_chance", "the hit_share of a map without any knowledge"),
)
"""What the columns of the tables by lesion are, for the sheet "About"."""


def check_size_edges(size_edges_mm: Any) -> tuple[float, ...]:
    """Validate the edges of the size classes and return them as numbers of mm.

    Raises:
        InputError: No edge, an edge that is not above 0, or edges that do not increase.
        InputTypeError: Not a sequence of numbers.

    Example:
        >>> check_size_edges((5, 10))
        (5.0, 10.0)
    """
    advice = "Give increasing numbers of mm above 0, e.g. (5, 10, 20)."
    try:
        edges = tuple(float(edge) for edge in size_edges_mm)
    except (TypeError, ValueError):
        raise InputTypeError(f"size_edges_mm is {size_edges_mm!r}. {advice}") from None
    increase = all(low < high for low, high in pairwise((0.0, *edges)))
    if not edges or not increase or edges[-1] == math.inf:
        raise InputError(f"size_edges_mm is {edges}. {advice}")
    return edges


def lesion_row(
    entry: LesionScore, layer: Hashable, class_label: Hashable, name: Hashable
) -> ScoreRow:
    """Return the row of a lesion's score."""
    return ScoreRow(
        entry.score.value,
        layer,
        class_label,
        name,
        entry.score.chance,
        lesion=entry.lesion.number,
        diameter_mm=entry.lesion.diameter_mm,
        voxels=entry.lesion.voxels,
        hit=entry.hit.value,
        hit_chance=nan if entry.hit.chance is None else entry.hit.chance,
    )


def size_classes(edges: Sequence[float]) -> list[str]:
    """Return the names of the size classes, the smallest first.

    Example:
        >>> size_classes((5.0, 10.0))
        ['< 5 mm', '5 to 10 mm', '≥ 10 mm']
    """
    between = [f"{low:g} to {high:g} mm" for low, high in pairwise(edges)]
    return [f"< {edges[0]:g} mm", *between, f"≥ {edges[-1]:g} mm"]


def size_table(
    rows: Iterable[ScoreRow],
    edges: Sequence[float],
    *,
    with_chance: bool,
    layer_ordering: Sequence[Hashable] | None = None,
) -> pd.DataFrame:
    """Return a table of means with one row per layer, class and size class.

    The columns are mean_score, layer, class_label, size, count, nan_count [, chance, lift],
    hit_share, hit_chance; means and counts as in `medcam.evaluation.table.mean_table`, of lesions.
    Rows without a lesion have no size and are left out. All size classes have a row, also those
    without a lesion.

    Args:
        rows: The scores.
        edges: The edges of the size classes in mm; a class includes its lower edge.
        with_chance: Whether the metric has a chance level, and the table its two columns.
        layer_ordering: As in `medcam.evaluation.table.mean_table`.

    Example:
        >>> rows = [ScoreRow(0.5, lesion=1, diameter_mm=7.0, hit=1.0, hit_chance=0.1)]
        >>> size_table(rows, (5.0,), with_chance=False)[["size", "count", "mean_score"]]
             size  count  mean_score
        0  < 5 mm      0         NaN
        1  ≥ 5 mm      1         0.5
    """
    names = size_classes(edges)
    lines = []
    for layer, class_label, members in grouped(rows, layer_ordering):
        of_size: list[list[ScoreRow]] = [[] for _ in names]
        for row in members:
            if row.lesion is not None:
                of_size[bisect_right(edges, row.diameter_mm * _ROUNDING)].append(row)
        for name, lesions in zip(names, of_size, strict=True):
            line = mean_line(lesions, layer, class_label, with_chance=with_chance)
            line.insert(MEAN_COLUMNS.index("class_label") + 1, name)
            with_peak = [row for row in lesions if not isnan(row.hit)]
            line.append(mean([row.hit for row in with_peak]))
            line.append(mean([row.hit_chance for row in with_peak]))
            lines.append(line)
    columns = [*MEAN_COLUMNS, *(CHANCE_COLUMNS if with_chance else ()), *HIT_COLUMNS]
    columns.insert(MEAN_COLUMNS.index("class_label") + 1, "size")
    return data_frame(lines, columns)
