"""Scores by lesion: what a lesion is, that the others do not count, and the table by size."""

from __future__ import annotations

import math
import warnings

import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch
from skimage.measure import regionprops

from medcam.errors import InputError, InputTypeError, MaskError
from medcam.evaluation import METRICS, lesions
from medcam.evaluation.by_size import size_table
from medcam.evaluation.evaluator import Evaluator
from medcam.evaluation.table import ScoreRow
from medcam.maps import resample_array

from ._replica import REPLICAS, otsu, stretched

DISTANCES = ["hd95", "assd", "centroid_distance"]
SPACING = {2: (2.0, 0.5), 3: (3.0, 0.5, 1.0)}


def by_lesion(folder, attention, mask, metric="relevance_mass", **options):
    """Return the evaluator after one score, and the score."""
    evaluator = Evaluator(folder, metric, by_lesion=True, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random maps score below chance
        score = evaluator.comp_score(attention, mask, "layer4", 1, "case")
    return evaluator, score


def two_lesions(axes):
    """Return a random map, and the voxels of a lesion of 6 and of one of 4 or more."""
    rng = np.random.default_rng(3)
    shape = (6, 7, 4)[:axes]
    large, small = np.zeros(shape, bool), np.zeros(shape, bool)
    large[:2, 1:4] = True
    small[4:, 5:] = True
    if axes == 3:
        large[..., 2:], small[..., :2] = False, False
    attention = rng.random(shape) + 0.5
    attention[large] += 0.5
    return attention, large, small


# ---------------------------------------------------------------------------- what a lesion is


def test_corners_connect_and_the_largest_comes_first():
    mask = [[1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 1, 1], [0, 0, 0, 0, 1]]
    parts = lesions(mask)
    assert [(part.number, part.voxels) for part in parts] == [(1, 3), (2, 2), (3, 1), (4, 1)]
    assert np.argwhere(parts[1].mask).tolist() == [[0, 0], [1, 1]]
    assert np.argwhere(parts[2].mask).tolist() == [[0, 4]]  # of two equals the first
    assert np.array_equal(parts[1].others, np.array(mask, bool) & ~parts[1].mask)
    cube = np.zeros((2, 2, 2))
    cube[0, 0, 0] = cube[1, 1, 1] = 1
    assert [part.voxels for part in lesions(cube)] == [2]


def test_diameters_by_hand():
    (pair,) = lesions([[0, 0, 0], [1, 1, 0]], spacing=(2.0, 0.5))  # 2 mm²
    assert pair.diameter_mm == pytest.approx(2 * math.sqrt(2 / math.pi))
    volume = np.zeros((3, 3, 3), int)
    volume[0, :2, :2] = 1
    (block,) = lesions(torch.tensor(volume), spacing=(3.0, 0.5, 2.0))  # 12 mm³, at the border
    assert block.diameter_mm == pytest.approx((6 * 12 / math.pi) ** (1 / 3))
    assert lesions(volume)[0].diameter_mm == pytest.approx((6 * 4 / math.pi) ** (1 / 3))
    assert lesions([0, 1, 1, 1], spacing=(0.5,))[0].diameter_mm == pytest.approx(1.5)


def test_a_volume_of_depth_1_has_the_diameters_of_its_image():
    image = [[1, 1, 0], [0, 0, 0]]
    flat = lesions([image], spacing=(5.0, 2.0, 0.5))[0].diameter_mm
    assert flat == lesions(image, spacing=(2.0, 0.5))[0].diameter_mm
    assert lesions([[[1]]], spacing=(1.0, 2.0, 3.0))[0].diameter_mm == pytest.approx(
        (6 * 6 / math.pi) ** (1 / 3)
    )


@pytest.mark.parametrize("axes", [2, 3])
def test_sizes_are_those_of_scikit_image(axes):
    mask = np.random.default_rng(1).random((12, 11, 10)[:axes]) < (0.3 if axes == 2 else 0.08)
    parts = lesions(mask, spacing=SPACING[axes])
    assert len(parts) > 5
    assert sum(part.voxels for part in parts) == mask.sum()
    numbered = sum(part.number * part.mask for part in parts)
    props = regionprops(numbered, spacing=SPACING[axes])
    assert [part.diameter_mm for part in parts] == pytest.approx(
        [prop.equivalent_diameter_area for prop in props]
    )
    assert [part.voxels for part in parts] == [prop.num_pixels for prop in props]
    # no two of them touch, and each is in one piece
    assert [len(lesions(part.mask)) for part in parts] == [1] * len(parts)


def test_wrong_masks_and_spacings_are_refused():
    assert lesions(np.zeros((2, 2))) == []
    with pytest.raises(InputError, match=r"spacing has 3 values.*the mask 2 axes"):
        lesions(np.eye(2), spacing=(1, 1, 1))
    with pytest.raises(InputError, match="positive"):
        lesions(np.eye(2), spacing=(1, 0))
    with pytest.raises(MaskError, match="0 and 1 only"):
        lesions(2 * np.eye(2))


# ------------------------------------------------------------------------ the scores, by hand


def test_of_two_lesions_one_is_hit(tmp_path):
    attention = np.array([[4.0, 3.0, 0.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 1]])
    evaluator, score = by_lesion(tmp_path, attention, mask, spacing=(2.0, 0.5))
    scores = evaluator.scores
    assert list(scores) == [
        "evaluation", "layer", "class_label", "name", "lesion", "diameter_mm", "voxels", "hit",
        "chance", "lift",
    ]  # fmt: skip
    large, small = 7 / 10, 1 / 4  # without the 1 of the other, and without 4 and 3
    assert scores["evaluation"].tolist() == pytest.approx([large, small])
    assert score == pytest.approx((large + small) / 2)
    assert scores["lesion"].tolist() == [1, 2]
    assert scores["voxels"].tolist() == [2, 1]
    assert scores["diameter_mm"].tolist() == pytest.approx(
        [2 * math.sqrt(2 / math.pi), 2 * math.sqrt(1 / math.pi)]
    )
    assert scores["hit"].tolist() == [1.0, 0.0]  # 2 is the maximum without the large lesion
    assert scores["chance"].tolist() == pytest.approx([2 / 7, 1 / 6])
    assert scores["lift"].tolist() == pytest.approx([large * 7 / 2, small * 6])
    assert scores[["layer", "class_label", "name"]].to_numpy().tolist() == [
        ["layer4", 1, "case"]
    ] * 2  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("ioa", [2 / 3, 1.0]),
        ("wioa", [1.75 / 2.25, 1.0]),
        ("iou", [2 / 3, 1.0]),
        ("dice", [4 / 5, 1.0]),
        ("wiou", [1.75 / 2.5, 9 / 11]),
        ("auroc", [1.0, 1.0]),
    ],
)
def test_the_other_lesion_does_not_scale_the_map(tmp_path, metric, expected):
    attention = np.array([[4.0, 3.0, 2.0, 0.0, 9.0]])
    mask = np.array([[1, 1, 0, 0, 1]])  # 4, 3 and 2 are attended, though less than half of 9
    evaluator, _ = by_lesion(tmp_path, attention, mask, metric, threshold=0.5)
    assert evaluator.scores["evaluation"].tolist() == pytest.approx(expected)


def test_distances_are_of_what_is_attended_without_the_other_lesions(tmp_path):
    attention = np.array([[0.0, 3.0, 4.0, 0.0, 0.0, 9.0, 9.0]])
    mask = np.array([[1, 1, 0, 0, 0, 1, 1]])
    options = {"threshold": 0.5, "spacing": (3.0, 2.0)}
    # of the first, 3 and 4 are attended (τ is 2, not 4.5): 1 step apart on average
    assert by_lesion(tmp_path, attention, mask, "centroid_distance", **options)[0].scores[
        "evaluation"
    ].tolist() == pytest.approx([2.0, 2.0 * (5.5 - 5.5)])
    hd95 = by_lesion(tmp_path, attention, mask, "hd95", **options)[0].scores["evaluation"]
    assert hd95.tolist() == pytest.approx([0.95 * 2.0, 0.0])


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_a_tolerance_reaches_beyond_the_other_lesion_but_not_its_maximum(tmp_path, tolerance):
    attention = np.array([[1.0, 5.0, 9.0, 2.0, 0.0, 0.0]])
    mask = np.array([[1, 0, 1, 1, 0, 0]])
    options = {"spacing": (1.0, 1.0), "tolerance_mm": tolerance}
    evaluator, _ = by_lesion(tmp_path, attention, mask, "pointing_game", **options)
    # the pair at 2 and 3 holds the maximum; the single voxel's is 5, a step beside it
    assert evaluator.scores["evaluation"].tolist() == [1.0, float(tolerance == 1.0)]
    assert evaluator.scores["hit"].tolist() == [1.0, float(tolerance == 1.0)]
    pair, single = (4 / 5, 2 / 4) if tolerance else (2 / 5, 1 / 4)
    assert evaluator.scores["chance"].tolist() == pytest.approx([pair, single])


# -------------------------------------------------------- one lesion alone, and beside others


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("metric", METRICS)
def test_the_only_lesion_has_the_plain_score(tmp_path, metric, axes):
    attention, large, _ = two_lesions(axes)
    for values in (attention, attention.astype(np.float32), np.ones(attention.shape)):
        for options in ({}, {"threshold": 0.3, "spacing": SPACING[axes], "tolerance_mm": 1.0}):
            plain = Evaluator(tmp_path, metric, **options)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = plain.comp_score(values, large)
            evaluator, score = by_lesion(tmp_path, values, large, metric, **options)
            row = evaluator.scores.iloc[0]
            assert score == row["evaluation"] == pytest.approx(expected, nan_ok=True, abs=0) or (
                math.isnan(score) and math.isnan(expected)
            )
            if "chance" in row:
                assert row["chance"] == plain.scores["chance"][0]


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("metric", METRICS)
def test_the_map_in_another_lesion_does_not_count(tmp_path, metric, axes):
    attention, large, small = two_lesions(axes)
    for options in ({}, {"threshold": 0.0}, {"threshold": 0.6, "tolerance_mm": 1.0}):
        tables = []
        for value in (0.0, 0.7, 50.0, -3.0):
            changed = attention.copy()
            changed[small] = value
            tables.append(by_lesion(tmp_path, changed, large | small, metric, **options)[0].scores)
        for table in tables[1:]:
            assert table.iloc[0].tolist() == tables[0].iloc[0].tolist()  # to the bit
    assert tables[0]["evaluation"][1] != tables[2]["evaluation"][1]


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("metric", METRICS)
def test_a_lesion_has_the_score_of_the_other_voxels(tmp_path, metric, axes):
    """Written from the definitions, by the replicas: as a list of voxels, or by Otsu's of them."""
    attention, large, small = two_lesions(axes)
    evaluator, _ = by_lesion(tmp_path, attention, large | small, metric, spacing=SPACING[axes])
    for lesion, other, row in zip(
        *((large, small), (small, large)), evaluator.scores.itertuples(), strict=True
    ):
        values, inside = attention[~other], lesion[~other]
        options = {"threshold": "otsu", "spacing": (1.0,), "tolerance_mm": 0.0}
        if metric in DISTANCES:
            threshold = otsu(list(stretched(values).values()))
            values, inside = np.where(other, values.min(), attention), lesion
            options |= {"threshold": threshold, "spacing": SPACING[axes]}
        expected = REPLICAS[metric](values, inside, **options)
        assert math.isfinite(expected)
        assert row.evaluation == pytest.approx(expected)


def test_a_map_that_is_constant_beside_the_other_lesion_has_no_score(tmp_path):
    mask = np.array([[1, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]])
    for dtype, noise in ((np.float64, 0.0), (np.float32, 3e-9)):
        attention = np.full(mask.shape, 0.1) + noise * np.arange(12).reshape(2, 6)
        attention[0, 5] = 1.0
        evaluator, score = by_lesion(tmp_path, attention.astype(dtype), mask, "wioa")
        assert evaluator.scores["evaluation"].tolist() == pytest.approx(
            [math.nan, 1.0], nan_ok=True
        )
        assert evaluator.scores["hit"].tolist() == pytest.approx([math.nan, 1.0], nan_ok=True)
        assert score == 1.0  # the mean of those that are defined


@pytest.mark.parametrize("axes", [2, 3])
def test_a_map_of_another_size_is_resampled_first(tmp_path, axes):
    attention, large, small = two_lesions(axes)
    fine = attention
    for axis in range(axes):
        fine = fine.repeat(2, axis)  # means over areas bring it back
    expected, _ = by_lesion(tmp_path, attention, large | small)
    evaluator, _ = by_lesion(tmp_path, fine, large | small)
    pd.testing.assert_frame_equal(evaluator.scores, expected.scores)
    masks = [np.repeat(np.repeat(mask, 2, 0), 3, 1) for mask in (large, small)]
    grown, _ = by_lesion(tmp_path, attention, masks[0] | masks[1])
    expected, _ = by_lesion(
        tmp_path, resample_array(attention, masks[0].shape), masks[0] | masks[1]
    )
    pd.testing.assert_frame_equal(grown.scores, expected.scores)
    assert grown.scores["voxels"].tolist() == [masks[0].sum(), masks[1].sum()]


def test_a_callable_gets_whole_arrays_with_neutral_values_on_the_other_lesions(tmp_path):
    calls = []

    def metric(attention, mask):
        calls.append((attention.tolist(), mask.tolist()))
        return attention[mask].sum()

    attention = [[5.0, -0.5, -6.5], [6.0, 0.0, 0.0], [-2.0, -1.0, 7.0]]
    attention[1][1:] = [-1.5, -2.5]
    mask = [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    evaluator, score = by_lesion(tmp_path, attention, mask, metric)
    assert calls[0][0] == [[5.0, -0.5, -6.5], [6.0, -1.5, -2.5], [-2.0, -1.0, -0.5]]
    assert calls[0][1] == np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]], bool).tolist()
    assert calls[1][0] == [[-0.5, -0.5, -6.5], [-0.5, -1.5, -2.5], [-2.0, -1.0, 7.0]]
    assert evaluator.scores["evaluation"].tolist() == [11.0, 7.0]
    assert score == 9.0
    assert evaluator.scores["hit"].tolist() == [0.0, 1.0]  # of magnitudes: 6 < |-6.5| < 7
    signs = np.array([[3.0, -3.0, 1.0, 1.0, 0.0, 0.0]])  # taken before resampling
    assert by_lesion(tmp_path, signs, [[1, 0, 0]], metric)[0].scores["hit"].tolist() == [1.0]


# -------------------------------------------------------------------------------- the tables


def test_a_sample_without_a_lesion_or_map_is_counted_but_has_no_size(tmp_path):
    evaluator, score = by_lesion(tmp_path, np.eye(3), np.zeros((3, 3)))
    assert math.isnan(score)
    evaluator.add_missing("layer4", 1, "no map")
    row = evaluator.scores.iloc[0]
    assert row["lesion"] is None and row["voxels"] is None  # noqa: PT018 - one statement
    assert math.isnan(row["evaluation"]) and math.isnan(row["diameter_mm"])  # noqa: PT018
    assert evaluator.mean_scores[["count", "nan_count"]].to_numpy().tolist() == [[2, 2]]
    assert evaluator.scores_by_size["count"].tolist() == [0, 0, 0, 0]


def sized(folder):
    """Return an evaluator with lesions of 1, 2 and 8 mm, in two layers."""
    evaluator = Evaluator(
        folder, "relevance_mass", layer_ordering=["b"], by_lesion=True, size_edges_mm=(2, 4)
    )
    attention = np.array([1.0, 0, 0, 0, 2, 3, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0])
    mask = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    for layer in ("a", "b"):
        evaluator.comp_score(attention, mask, layer, 0, "first")
    evaluator.comp_score(attention, attention == 2, "b", 0, "second")
    return evaluator


SIZED = [
    # mean_score, layer, class_label, size, count, nan_count, chance, lift, hit_share, hit_chance
    [(1 + 0.2) / 2, "b", 0, "< 2 mm", 2, 0, (1 / 6 + 1 / 16) / 2, (6 + 3.2) / 2, 0.5, 11 / 96],
    [1.0, "b", 0, "2 to 4 mm", 1, 0, 2 / 7, 3.5, 1.0, 2 / 7],
    [1.0, "b", 0, "≥ 4 mm", 1, 0, 8 / 13, 13 / 8, 1.0, 8 / 13],
    [1.0, "a", 0, "< 2 mm", 1, 0, 1 / 6, 6.0, 1.0, 1 / 6],
    [1.0, "a", 0, "2 to 4 mm", 1, 0, 2 / 7, 3.5, 1.0, 2 / 7],
    [1.0, "a", 0, "≥ 4 mm", 1, 0, 8 / 13, 13 / 8, 1.0, 8 / 13],
]


def test_the_means_by_size(tmp_path):
    table = sized(tmp_path).scores_by_size
    assert list(table) == [
        "mean_score", "layer", "class_label", "size", "count", "nan_count", "chance", "lift",
        "hit_share", "hit_chance",
    ]  # fmt: skip
    assert [line[1:6] for line in table.to_numpy().tolist()] == [line[1:6] for line in SIZED]
    numbers = [[line[0], *line[6:]] for line in table.to_numpy().tolist()]
    assert numbers == [pytest.approx([line[0], *line[6:]]) for line in SIZED]
    means = sized(tmp_path).mean_scores
    assert means["count"].tolist() == [4, 3]  # of lesions
    assert means["mean_score"].tolist() == pytest.approx([3.2 / 4, 1.0])


def test_a_size_class_includes_its_lower_edge():
    diameters = (4.9, 5.0, 5.0 * (1 - 1e-12), 9.9, 10.0, 50.0)
    rows = [ScoreRow(0.5, lesion=1, diameter_mm=diameter) for diameter in diameters]
    table = size_table(rows, (5.0, 10.0), with_chance=False)
    assert table["size"].tolist() == ["< 5 mm", "5 to 10 mm", "≥ 10 mm"]
    assert table["count"].tolist() == [1, 3, 2]


def test_hits_of_maps_without_a_maximum_are_left_out():
    hits = [(1.0, 0.2), (0.0, 0.4), (math.nan, 0.9)]
    rows = [ScoreRow(0.5, lesion=1, diameter_mm=1.0, hit=hit, hit_chance=p) for hit, p in hits]
    table = size_table(rows, (5.0,), with_chance=False)
    assert table["count"].tolist() == [3, 0]
    assert table.loc[0, ["hit_share", "hit_chance"]].tolist() == pytest.approx([0.5, 0.3])


def test_metrics_without_a_chance_level_keep_that_of_the_hits(tmp_path):
    evaluator, _ = by_lesion(tmp_path, np.eye(3), np.eye(3), "dice")
    assert list(evaluator.scores)[-1] == "hit"
    assert list(evaluator.scores_by_size)[-3:] == ["nan_count", "hit_share", "hit_chance"]
    assert evaluator.scores_by_size["hit_chance"].tolist()[0] == pytest.approx(1 / 3)


def test_the_workbook_has_a_sheet_by_size_and_explains_it(tmp_path):
    evaluator = sized(tmp_path)
    book = openpyxl.load_workbook(evaluator.dump())
    assert book.sheetnames == ["Scores", "Mean Scores", "By Size", "About"]
    header, *lines = book["By Size"].iter_rows(values_only=True)
    assert list(header) == list(evaluator.scores_by_size)
    assert [line[3] for line in lines] == ["< 2 mm", "2 to 4 mm", "≥ 4 mm"] * 2
    assert [line[4] for line in lines] == [2, 1, 1, 1, 1, 1]
    about = {line[0].value for line in book["About"]}
    explained = {"lesion", "diameter_mm", "voxels", "hit", "size", "hit_share", "hit_chance"}
    assert explained <= about
    assert [cell.value for cell in book["Scores"]["E"]] == ["lesion", 1, 2, 3, 1, 2, 3, 1]
    evaluator.dump(mean_only=True, layer="a")
    book = openpyxl.load_workbook(tmp_path / "scores.xlsx")
    assert book.sheetnames == ["Mean Scores", "By Size", "About"]
    assert {line[1] for line in list(book["By Size"].iter_rows(min_row=2, values_only=True))} == {
        "a"
    }


def test_without_by_lesion_nothing_is_there_of_it(tmp_path):
    evaluator = Evaluator(tmp_path, "relevance_mass")
    evaluator.comp_score(np.eye(3), np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1]]))
    assert list(evaluator.scores) == [
        "evaluation", "layer", "class_label", "name", "chance", "lift",
    ]  # fmt: skip
    assert len(evaluator.scores) == 1
    with pytest.raises(InputError, match=r"Evaluator\(\.\.\., by_lesion=True\)"):
        _ = evaluator.scores_by_size
    book = openpyxl.load_workbook(evaluator.dump())
    assert book.sheetnames == ["Scores", "Mean Scores", "About"]
    assert "diameter_mm" not in {line[0].value for line in book["About"]}


@pytest.mark.parametrize("edges", [(), (0, 5), (-1,), (5, 5), (10, 5), (5, math.inf), (math.nan,)])
def test_wrong_edges_are_refused_at_once(tmp_path, edges):
    with pytest.raises(InputError, match=r"size_edges_mm is \(.*increasing numbers of mm above 0"):
        Evaluator(tmp_path, by_lesion=True, size_edges_mm=edges)


def test_edges_are_numbers(tmp_path):
    for edges in (5, ["a"], None):
        with pytest.raises(InputTypeError, match="size_edges_mm is"):
            Evaluator(tmp_path, by_lesion=True, size_edges_mm=edges)


def test_a_spacing_of_the_sample_is_that_of_its_sizes(tmp_path):
    evaluator = Evaluator(tmp_path, "dice", by_lesion=True, spacing=(1.0, 1.0))
    for spacing in (None, (2.0, 8.0)):
        evaluator.comp_score(np.eye(3), np.eye(3), spacing=spacing)
    assert evaluator.scores["diameter_mm"].tolist() == pytest.approx(
        [2 * math.sqrt(3 / math.pi), 8 * math.sqrt(3 / math.pi)]
    )


def test_only_a_sample_below_chance_is_warned_of(tmp_path):
    attention = np.array([[9.0, 0.0, 1.0, 0.0, 0.0]])
    mask = np.array([[1, 0, 0, 0, 1]])
    evaluator = Evaluator(tmp_path, "relevance_mass", by_lesion=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # .9 and 0, by chance .25
        evaluator.comp_score(attention, mask)
    with pytest.warns(UserWarning, match="scores below chance"):
        evaluator.comp_score(np.array([[0.0, 1.0, 1.0, 1.0, 0.0]]), mask)
