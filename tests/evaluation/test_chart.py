"""The chart: a bar per layer and class, as long as its mean, with readable texts."""

from __future__ import annotations

import io
import math
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from medcam.evaluation.chart import mean_scores_chart
from medcam.evaluation.table import ScoreRow, mean_table
from medcam.views.figures import save_figure


def means_of(layers, classes=(None,), *, chance=None):
    """Return means where that of bar number i is i / 100."""
    rows = []
    for layer in layers:
        for label in classes:
            rows.append(ScoreRow(len(rows) / 100 % 1, layer, label, chance=chance))
    return mean_table(rows, with_chance=chance is not None)


def bars(figure):
    """Return (label, length, colour) of every bar, by columns, from the top."""
    drawn_bars = []
    for axes in figure.axes:
        labels = [tick.get_text() for tick in axes.get_yticklabels()]
        places = axes.get_yticks()
        assert axes.yaxis_inverted()
        for label, place, patch in zip(labels, places, axes.patches, strict=True):
            assert patch.get_y() < place < patch.get_y() + patch.get_height()
            drawn_bars.append((label, patch.get_width(), to_hex(patch.get_facecolor())))
    return drawn_bars


def drawn(figure) -> np.ndarray:
    file = io.BytesIO()
    save_figure(figure, file)
    return np.asarray(Image.open(file).convert("RGB"))


def test_bars_labels_and_order():
    figure = mean_scores_chart(means_of(["layer2", "layer1"], ["liver", 7]), title="Dice")
    assert [bar[:2] for bar in bars(figure)] == [
        ("layer2 · liver", 0.0),
        ("layer2 · class 7", pytest.approx(0.01)),
        ("layer1 · liver", pytest.approx(0.02)),
        ("layer1 · class 7", pytest.approx(0.03)),
    ]
    colours = [bar[2] for bar in bars(figure)]
    assert colours[0] == colours[2] != colours[1] == colours[3]
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["liver", "class 7"]
    assert [to_hex(patch.get_facecolor()) for patch in legend.get_patches()] == colours[:2]
    assert figure.get_suptitle() == "Dice"


def test_the_bar_is_drawn_as_long_as_its_mean():
    means = mean_table([ScoreRow(0.25, "a"), ScoreRow(0.75, "b")], with_chance=False)
    figure = mean_scores_chart(means, title="Dice")
    blue = (drawn(figure) == (0x3B, 0x6E, 0xA5)).all(axis=2)
    lengths = blue.sum(axis=1)
    middle = np.flatnonzero(lengths)
    assert lengths[middle[-1]] / lengths[middle[0]] == pytest.approx(3, rel=0.05)


def test_numbers_and_nan_counts_stand_beside_the_bars():
    rows = [
        ScoreRow(0.5, "a"),
        ScoreRow(math.nan, "a"),
        ScoreRow(math.nan, "b"),
        ScoreRow(12.345, "c"),
        ScoreRow(1e-5, "d"),
    ]
    figure = mean_scores_chart(mean_table(rows, with_chance=False), title="x", unit=None)
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "0.500", "n = 1 (and 1 NaN)", "NaN", "n = 0 (and 1 NaN)", "12.35", "n = 1", "1e-05",
        "n = 1",
    ]  # fmt: skip


def test_chance_levels_are_ticks_at_their_place():
    figure = mean_scores_chart(means_of("ab", chance=0.3), title="x")
    (ticks,) = [lines for lines in figure.axes[0].collections if len(lines.get_segments()) == 2]
    assert [segment[:, 0].tolist() for segment in ticks.get_segments()] == [[0.3, 0.3]] * 2
    assert next(iter(figure.legends[0].get_texts())).get_text() == "chance level"
    assert mean_scores_chart(means_of("ab"), title="x").legends == []


def test_axes_by_unit():
    means = mean_table([ScoreRow(-3.0, "a"), ScoreRow(7.0, "b")], with_chance=False)
    assert mean_scores_chart(means_of("ab"), title="x").axes[0].get_xlim() == (0, 1)
    low, high = mean_scores_chart(means, title="x", unit=None).axes[0].get_xlim()
    assert low < -3
    assert high > 7
    millimetres = mean_scores_chart(means.iloc[1:], title="x", unit="mm").axes[0]
    assert millimetres.get_xlabel() == "mean score [mm]"
    assert millimetres.get_xlim()[0] == 0
    assert millimetres.get_xlim()[1] > 7


def test_hundreds_of_layers_stay_readable():
    names = [f"decoder.stages.{n}.convs.0.all_modules.2" for n in range(300)]
    figure = mean_scores_chart(means_of(names), title="Dice")
    assert [bar[0] for bar in bars(figure)] == names
    assert len(figure.axes) > 1
    width, height = figure.get_size_inches()
    assert 0.5 < width / height < 2
    figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 > lower.y1 - 1 for upper, lower in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0
    first, second = figure.axes[:2]
    last_text = max(text.get_window_extent().x1 for text in first.texts)
    next_label = min(tick.get_window_extent().x0 for tick in second.get_yticklabels())
    assert last_text < next_label


def test_all_texts_lie_within_the_picture():
    rows = [
        ScoreRow(math.nan, "W" * 90, "M" * 30),
        ScoreRow(1234.5678, "b", 3),
        ScoreRow(-1.5e-7, "c", 3),
    ]
    figure = mean_scores_chart(mean_table(rows, with_chance=False), title="x" * 200, unit=None)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    axes = figure.axes[0]
    means, counts = axes.texts[::2], axes.texts[1::2]
    for text in (*axes.get_yticklabels(), *axes.texts, *figure.texts):
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= width, text.get_text()
        assert 0 <= box.y0 < box.y1 <= height, text.get_text()
    for mean, count in zip(means, counts, strict=True):
        assert mean.get_window_extent().x1 < count.get_window_extent().x0


def test_odd_names_are_drawn_as_they_are():
    names = ["$x_1$", "$\\bad$", "=c", "two\nlines", "层", ""]
    figure = mean_scores_chart(means_of(names, [None, "$\\bad$"]), title="$\\bad$")
    shown = [bar[0] for bar in bars(figure)][::2]
    assert shown == ["$x_1$", "$\\bad$", "=c", "two�lines", "层", "neither layer nor class"]
    without = mean_scores_chart(means_of([""], ["liver"]), title="x")
    assert [bar[0] for bar in bars(without)] == ["liver"]
    assert (drawn(figure) < 128).any()  # no warning, no mathematics, no error


def test_no_scores_no_bars():
    figure = mean_scores_chart(mean_table([], with_chance=True), title="x")
    assert bars(figure) == []
    assert [text.get_text() for text in figure.axes[0].texts] == ["no scores"]


def test_one_colour_for_more_classes_than_colours():
    figure = mean_scores_chart(means_of("a", range(20)), title="x")
    assert len({bar[2] for bar in bars(figure)}) == 1
    assert figure.legends == []


def test_tables_made_by_others_work():
    frame = pd.DataFrame({"mean_score": [0.5], "layer": ["a"], "class_label": [None]})
    frame = frame.assign(count=1, nan_count=0)
    assert [bar[0] for bar in bars(mean_scores_chart(frame, title="x"))] == ["a"]


def test_pyplot_is_left_alone():
    drawn(mean_scores_chart(means_of("ab"), title="x"))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


@pytest.mark.parametrize(("chance", "below"), [(0.0, False), (0.3, True)])
def test_means_below_chance_are_hatched_and_named(chance, below):
    figure = mean_scores_chart(means_of("a", chance=chance), title="x")
    (bar,) = [patch for patch in figure.axes[0].patches if patch.get_height() > 0.5]
    assert bool(bar.get_hatch()) == below
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["chance level", "below chance"][: 1 + below]
