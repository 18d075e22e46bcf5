"""Guided backpropagation of a large volume: time and peak memory of a PlainConvUNet at 128³."""

from __future__ import annotations

from typing import Any

import libraries
import measure
from cases import CASES

TITLE = "Guided Backprop of a volume (nnU-Net 128³)"
MAKERS = {
    "medcam": libraries.ours(method="gbp"),
    'medcam, memory="low"': libraries.ours(method="gbp", memory="low"),
    "captum": libraries.captum_guided,
}
GOALS = {"Guided Backprop": None}
ROWS, COLUMNS = list(GOALS), list(MAKERS)


def cell(row: str, column: str) -> dict[str, Any]:
    """Measure one library in a single timed round, because a call takes long."""
    case = CASES["nnU-Net 128³, bottleneck"]
    return measure.cell(case, MAKERS[column], budget=0, least=1, count_saved=False)
