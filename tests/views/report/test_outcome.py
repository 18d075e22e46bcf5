"""The part of a page that says what the network predicted."""

from __future__ import annotations

import numpy as np
import pytest

from medcam.explanation.predicted import PredictedClass, Prediction
from medcam.views.report.outcome import outcome_section
from medcam.views.report.page import render_report
from medcam.views.scene.values import Scene


def texts(section):
    return [[cell.text for cell in row] for row in section.table.rows]


def test_a_segmentation_lists_what_was_found_without_the_background():
    classes = (
        PredictedClass(0, "background", True, voxels=900_000, size=7221.4, is_background=True),
        PredictedClass(1, "liver", True, voxels=200, size=1.6),
        PredictedClass(2, "tumour", False, voxels=0, size=0.0),
    )
    record = Prediction("segmentation", classes, unit="ml").to_dict()
    section = outcome_section(record)
    assert section.sentence == "Predicted: liver."
    assert section.table.columns == ["Class", "Name", "Voxels", "ml"]
    assert texts(section) == [["0", "background", "900000", "7221"], ["1", "liver", "200", "1.600"]]
    assert section.rest == ["1 class is predicted nowhere."]
    nothing = Prediction("segmentation", classes[:1]).to_dict()
    assert outcome_section(nothing).sentence == "Predicted: nothing."


def test_of_many_classes_the_likeliest_are_shown():
    classes = tuple(PredictedClass(k, f"class {k}", k == 30, float(k), k / 1000) for k in range(31))
    record = Prediction("classification", classes, "softmax", is_assumed=False).to_dict()
    section = outcome_section(record)
    assert texts(section)[0][:2] == ["30", "class 30"]
    assert len(section.table.rows) == 12
    assert section.rest[0] == "19 further classes are in the record."
    assert section.rest[1] == "Probabilities are the softmax of the logits."


@pytest.mark.parametrize("is_signal", [False, True])
def test_it_is_on_pages_of_images_and_of_signals(is_signal):
    classes = (PredictedClass(1, "<script>alert(1)</script>", True, 0.3, 0.6),)
    record = Prediction("classification", classes, "sigmoid", is_assumed=True, truth=(1,)).to_dict()
    shape = (2, 50) if is_signal else (6, 5)
    page = render_report(Scene("case", np.zeros(shape), is_signal=is_signal, prediction=record))
    assert "What the network predicted" in page
    assert "<script>alert(1)</script>" not in page
    assert "That is correct" in page
    empty = render_report(Scene("case", np.zeros(shape), is_signal=is_signal))
    assert "What the network predicted" not in empty
