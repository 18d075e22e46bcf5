"""What do guided maps, and maps of every layer, cost?  ResNet50, B=8, 224²."""

from __future__ import annotations

from typing import Any

import libraries
import measure
from cases import CASES

TITLE = "Guided maps, and every layer (ResNet50 B=8)"
GOALS = {"Guided Backprop": 2.3, "Guided Grad-CAM": 2.5, 'Grad-CAM of "full"': 2.6}
MAKERS = {
    ("Guided Backprop", "medcam"): libraries.ours(method="gbp"),
    ("Guided Backprop", "floor"): libraries.floor_input,
    ("Guided Backprop", "captum"): libraries.captum_guided,
    ("Guided Grad-CAM", "medcam"): libraries.ours(method="ggcam"),
    ("Guided Grad-CAM", "floor"): libraries.floor_both,
    ("Guided Grad-CAM", "captum"): libraries.captum_guided_cam,
    ('Grad-CAM of "full"', "medcam"): libraries.ours(layer="full"),
    ('Grad-CAM of "full"', "floor"): libraries.floor_full,
}
FLOORS = {row: MAKERS[row, "floor"] for row in GOALS}
ROWS, COLUMNS = list(GOALS), ["medcam", "floor", "captum"]


def cell(row: str, column: str) -> dict[str, Any] | None:
    """One method of one library; None where it has no such method."""
    if (row, column) not in MAKERS:
        return None
    mine = column == "medcam"
    return measure.cell(
        CASES["ResNet50 B=8, layer4"],
        MAKERS[row, column],
        floor=FLOORS[row] if mine else None,
        budget=20 if mine else 8,
        least=5 if mine else measure.LEAST,
    )
