"""Evaluator: rows and means."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from medcam.errors import InputError, MaskError, MedcamWarning, UnknownNameError
from medcam.evaluation import compute_score
from medcam.evaluation.evaluator import Evaluator
from medcam.evaluation.table import ScoreRow, mean_table
from support.scored import EMPTY, MAP, MASK, filled


def test_every_score_is_returned_and_kept(tmp_path):
    scores = filled(tmp_path).scores
    assert list(scores) == ["evaluation", "layer", "class_label", "name", "chance", "lift"]
    assert scores["evaluation"].tolist() == pytest.approx([0.75, math.nan, 0.5, 0.25], nan_ok=True)
    assert scores["layer"].tolist() == ["b", "b", "b", "a"]
    assert scores["class_label"].tolist() == [1, 1, 1, 0]
    assert scores["name"].tolist() == ["first", "empty", "second", None]
    assert scores["chance"].tolist() == [0.5, 0.0, 0.25, 0.25]
    assert scores["lift"].tolist() == pytest.approx([1.5, math.nan, 2.0, 1.0], nan_ok=True)


def test_means_skip_nan_and_count_it(tmp_path):
    means = filled(tmp_path).mean_scores
    assert means.columns.tolist() == [
        "mean_score", "layer", "class_label", "count", "nan_count", "chance", "lift",
    ]  # fmt: skip
    assert means.to_numpy().tolist() == [
        [0.625, "b", 1, 3, 1, 0.375, 1.75],
        [0.25, "a", 0, 1, 0, 0.25, 1.0],
    ]


def test_means_equal_those_of_pandas():
    rng = np.random.default_rng(0)
    rows = [
        ScoreRow(value, f"layer{rng.integers(3)}", int(rng.integers(4)), chance=0.5)
        for value in np.where(rng.random(200) < 0.2, math.nan, rng.random(200))
    ]
    means = mean_table(rows, with_chance=False).set_index(["layer", "class_label"])
    frame = pd.DataFrame([(row.layer, row.class_label, row.evaluation) for row in rows])
    expected = frame.groupby([0, 1])[2].agg(["mean", "size", "count"])
    assert len(means) == len(expected) == 12
    for key, row in expected.iterrows():
        assert means.loc[key, "mean_score"] == pytest.approx(row["mean"])
        assert means.loc[key, "count"] == row["size"]
        assert means.loc[key, "nan_count"] == row["size"] - row["count"]


def test_layer_ordering_keeps_all_layers(tmp_path):
    assert filled(tmp_path).mean_scores["layer"].tolist() == ["b", "a"]
    ordered = filled(tmp_path, layer_ordering=["a", "zzz", "b"])
    assert ordered.mean_scores["layer"].tolist() == ["a", "b"]
    assert filled(tmp_path, layer_ordering=["a"]).mean_scores["layer"].tolist() == ["a", "b"]
    assert filled(tmp_path, layer_ordering=[]).mean_scores["layer"].tolist() == ["b", "a"]


def test_a_group_of_nan_has_a_nan_mean(tmp_path):
    evaluator = Evaluator(tmp_path)
    evaluator.comp_score(MAP, EMPTY)
    assert evaluator.mean_scores.to_numpy().tolist() == [
        pytest.approx([math.nan, None, None, 1, 1, math.nan, math.nan], nan_ok=True)
    ]


def test_metrics_without_a_chance_level_have_no_such_columns(tmp_path):
    for metric in ("dice", lambda a, m: 1.0):
        evaluator = Evaluator(tmp_path, metric)
        evaluator.comp_score(MAP, MASK)
        assert list(evaluator.scores) == ["evaluation", "layer", "class_label", "name"]
        assert list(evaluator.mean_scores)[-1] == "nan_count"


def test_the_settings_reach_the_score(tmp_path):
    for metric, threshold, spacing, tolerance in (
        ("ioa", 0.4, None, 0.0),
        ("assd", 0.9, (3.0, 0.5), 0.0),
        ("pointing_game", "otsu", (3.0, 0.5), 3.0),
    ):
        options = {"spacing": spacing, "tolerance_mm": tolerance}
        evaluator = Evaluator(tmp_path, metric, threshold, **options)
        mask = [[0, 0], [1, 0]]
        expected = compute_score(MAP, mask, metric, threshold, **options)
        assert evaluator.comp_score(MAP, mask) == expected
        assert evaluator.scores["evaluation"].tolist() == [expected]


def test_a_callable_metric_is_scored_and_saved(tmp_path):
    def contrast(attention, mask):
        return attention[mask].mean() - attention[~mask].mean()

    evaluator = Evaluator(tmp_path, contrast)
    assert evaluator.comp_score(MAP, MASK, "a") == 2.0
    assert pd.read_excel(evaluator.dump(), sheet_name="Scores")["evaluation"].tolist() == [2.0]


def test_labels_of_torch_and_numpy_are_plain(tmp_path):
    evaluator = Evaluator(tmp_path)
    for label in (torch.tensor(1), np.int64(1), 1):
        evaluator.comp_score(MAP, MASK, np.str_("a"), label)
    evaluator.comp_score(MAP, MASK, "a", [1, 2])
    assert evaluator.mean_scores["class_label"].tolist() == [1, "[1, 2]"]
    assert evaluator.mean_scores["count"].tolist() == [3, 1]


def test_a_score_that_fails_leaves_no_row(tmp_path):
    evaluator = Evaluator(tmp_path)
    with pytest.raises(MaskError):
        evaluator.comp_score(MAP, MASK * 2)
    assert len(evaluator.scores) == 0


def test_wrong_settings_are_refused_at_once(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'wioa'"):
        Evaluator(tmp_path, "wiaa")
    with pytest.raises(InputError, match="Threshold 2 is outside"):
        Evaluator(tmp_path, "wioa", 2.0)
    with pytest.raises(InputError, match="positive"):
        Evaluator(tmp_path, spacing=(0.0, 1.0))


@pytest.mark.parametrize("module", ["medcam.evaluation", "medcam.evaluation.evaluator"])
def test_the_import_stays_cheap(module):
    code = (
        f"import {module}, sys; "
        "heavy = {'pandas', 'matplotlib', 'skimage', 'scipy', 'openpyxl'} & set(sys.modules); "
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # noqa: S603 - our own code
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_score_below_chance_is_warned_of_once_for_each_layer_and_red_in_the_workbook(tmp_path):
    outside = np.zeros((8, 8))
    outside[:, 4:] = 1.0
    mask = np.zeros((8, 8), bool)
    mask[:, :2] = True
    evaluator = Evaluator(tmp_path, metric="relevance_mass")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        evaluator.comp_score(outside, mask, layer="a")
        evaluator.comp_score(outside, mask, layer="a")
        evaluator.comp_score(1 - outside, mask, layer="a")
        evaluator.comp_score(outside, mask, layer="b")
    assert [item.category for item in told] == [MedcamWarning] * 2
    assert "A map of layer 'a' scores below chance" in str(told[0].message)
    evaluator.dump()
    from openpyxl import load_workbook

    sheet = load_workbook(next(tmp_path.glob("*.xlsx")))["Scores"]
    lifts = [cell for cell in sheet[1] if cell.value == "lift"]
    colors = [row[lifts[0].column - 1].font.color for row in sheet.iter_rows(min_row=2)]
    assert [color is not None and color.rgb == "00C0392B" for color in colors] == [
        True, True, False, True,
    ]  # fmt: skip


def test_one_miss_of_the_pointing_game_is_no_score_below_chance(tmp_path):
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = True
    values = np.zeros((8, 8))
    values[7, 7] = 1.0
    assert Evaluator(tmp_path, metric="pointing_game").comp_score(values, mask) == 0.0
