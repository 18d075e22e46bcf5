"""Guided maps, and Grad-CAM of every layer: ResNet50 with a batch of 8 images of 224²."""

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
    """Measure one method of one library; None if the library has no such method."""
    if (row, column) not in MAKERS:
        return None
    is_medcam = column == "medcam"
    return measure.cell(
        CASES["ResNet50 B=8, layer4"],
        MAKERS[row, column],
        floor=FLOORS[row] if is_medcam else None,
        budget=20 if is_medcam else 8,
        least=5 if is_medcam else measure.LEAST,
    )
