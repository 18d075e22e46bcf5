"""Evaluator.dump: the files, read back by openpyxl and pandas, and what happens when it fails."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch

import medcam
from medcam.errors import MedcamWarning, SaveError, UnknownNameError
from medcam.evaluation.evaluator import Evaluator
from support.scored import MAP, MASK, filled


@pytest.mark.parametrize("ending", ["", "/"])
def test_the_workbook_as_openpyxl_reads_it(tmp_path, ending):
    folder = tmp_path / "new" / "deep"
    with pytest.warns(MedcamWarning, match=r"1 of 4 scores are NaN .*nan_count"):
        path = filled(f"{folder}{ending}").dump()
    assert path == folder / "scores.xlsx"
    assert sorted(file.name for file in folder.iterdir()) == ["mean_scores.png", "scores.xlsx"]
    book = openpyxl.load_workbook(path)
    assert book.sheetnames == ["Scores", "Mean Scores", "About"]
    assert list(book["Scores"].values) == [
        ("evaluation", "layer", "class_label", "name", "chance", "lift"),
        (0.75, "b", 1, "first", 0.5, 1.5),
        ("NaN", "b", 1, "empty", 0, "NaN"),
        (0.5, "b", 1, "second", 0.25, 2),
        (0.25, "a", 0, None, 0.25, 1),
    ]
    assert list(book["Mean Scores"].values) == [
        ("mean_score", "layer", "class_label", "count", "nan_count", "chance", "lift"),
        (0.625, "b", 1, 3, 1, 0.375, 1.75),
        (0.25, "a", 0, 1, 0, 0.25, 1),
    ]


@pytest.mark.parametrize(
    ("metric", "options", "expected"),
    [
        ("wioa", {}, {"metric": medcam.evaluation.METRICS["wioa"].title, "threshold": "otsu"}),
        ("hd95", {"spacing": (0.5, 2)}, {"unit": "mm", "voxel size in mm": "0.5 x 2"}),
        (lambda a, m: 0.0, {"threshold": 0.3}, {"unit": "not known", "threshold": "0.3"}),
    ],
)
def test_the_about_sheet_names_metric_and_options(tmp_path, metric, options, expected):
    evaluator = medcam.Evaluator(tmp_path, metric=metric, **options)
    evaluator.comp_score(np.array([[3.0, 1.0]]), np.array([[1, 0]]))
    about = pd.read_excel(evaluator.dump(), sheet_name="About").set_index("what")["value"]
    assert {key: about[key] for key in expected} == expected
    assert about["medcam"] == medcam.__version__
    assert ("chance" in about) == ("chance" in evaluator.scores)


def test_the_workbook_as_pandas_reads_it(tmp_path):
    evaluator = filled(tmp_path)
    with pytest.warns(MedcamWarning):
        sheets = pd.read_excel(evaluator.dump(), sheet_name=None)
    for sheet, frame in (("Scores", evaluator.scores), ("Mean Scores", evaluator.mean_scores)):
        read = sheets[sheet]
        assert list(read) == list(frame)
        for column in frame:
            expected = frame[column].tolist()
            got = [None if value != value and column == "name" else value for value in read[column]]
            assert got == [pytest.approx(value, nan_ok=True) for value in expected], column


def test_mean_only_and_filters(tmp_path):
    evaluator = filled(tmp_path)
    path = evaluator.dump(mean_only=True, layer="a")
    book = openpyxl.load_workbook(path)
    assert book.sheetnames == ["Mean Scores", "About"]
    assert [row[1] for row in book["Mean Scores"].iter_rows(values_only=True)] == ["layer", "a"]
    evaluator.dump(class_label=torch.tensor(0))
    scores = pd.read_excel(path, sheet_name="Scores")
    assert scores["evaluation"].tolist() == [0.25]
    with pytest.raises(
        UnknownNameError, match=r"Scored layer 'c' does not exist\. .*Evaluator\.scores"
    ):
        evaluator.dump(layer="c")
    with pytest.raises(UnknownNameError, match="Scored class 1 does not exist"):
        evaluator.dump(layer="a", class_label=1)


def test_no_warning_without_nan(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled(tmp_path).dump(layer="a")


def test_nothing_scored_gives_empty_tables_and_says_so(tmp_path):
    with pytest.warns(MedcamWarning, match=r"No score was recorded"):
        path = Evaluator(tmp_path).dump()
    book = openpyxl.load_workbook(path)
    assert [len(list(sheet.values)) for sheet in book][:2] == [1, 1]
    assert (tmp_path / "mean_scores.png").read_bytes()[1:4] == b"PNG"


def test_the_warning_points_at_the_caller(tmp_path):
    with pytest.warns(MedcamWarning) as caught:
        filled(tmp_path).dump()
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


MEAN_TEXT = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "=HYPERLINK(1)",
    "#N/A",
    "\tx",
    "a\x07b",
    "_x000D_",
    "层",
]


def test_text_stays_text(tmp_path):
    evaluator = Evaluator(tmp_path, "dice")
    for text in MEAN_TEXT:
        evaluator.comp_score(MAP, MASK, layer=text, class_label=text, name=text)
    book = openpyxl.load_workbook(evaluator.dump())
    for sheet in (book["Scores"], book["Mean Scores"]):
        for row, text in zip(sheet.iter_rows(min_row=2), MEAN_TEXT, strict=True):
            for cell in row:
                if cell.column_letter in "BC" or (sheet.title == "Scores" and cell.column == 4):
                    assert cell.data_type == "s", text
                    assert cell.value == text.replace("\x07", "�")
                    assert cell.quotePrefix is (text[0] in "=+-@\t")


def test_infinite_scores_of_a_callable_are_text(tmp_path):
    evaluator = Evaluator(tmp_path, lambda a, m: math.inf)
    evaluator.comp_score(MAP, MASK, "a")
    book = openpyxl.load_workbook(evaluator.dump())
    assert book["Mean Scores"]["A2"].value == "inf"


def test_a_file_in_the_way_is_an_error_and_leaves_nothing(tmp_path):
    blocked = tmp_path / "results"
    blocked.write_text("mine")
    with pytest.raises(SaveError, match=r"scores\.xlsx.*a file, not a folder: choose another"):
        filled(blocked).dump()
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert blocked.read_text() == "mine"


@pytest.mark.parametrize("name", ["scores.xlsx", "mean_scores.png"])
def test_a_folder_in_the_way_is_an_error_and_leaves_no_half_file(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(SaveError, match=name):
        filled(tmp_path).dump()
    kept = {"scores.xlsx", "mean_scores.png"} if name == "mean_scores.png" else {name}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_failing_save_keeps_the_old_file(tmp_path, monkeypatch):
    evaluator = filled(tmp_path)
    before = evaluator.dump(layer="a").read_bytes()

    def full_disk(book, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("openpyxl.workbook.workbook.Workbook.save", full_disk)
    with pytest.raises(SaveError, match="No space left"):
        evaluator.dump()
    assert (tmp_path / "scores.xlsx").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"scores.xlsx", "mean_scores.png"}
