"""The chart of mean scores: one bar per layer and class."""

from __future__ import annotations

import math
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLASS_COLORS = ("#3b6ea5", "#d98032", "#4f9d7b", "#a85a94", "#c2b03c", "#79b6d9", "#8a6d5a")
_DARK, _GREY, _PALE = "#222222", "#6f6f6f", "#e3e3e3"
_MAX_ROWS = 45  # bars in a single column; more are spread over several columns
_ROW_INCHES, _COLUMN_INCHES = 0.19, 4.2  # the width of a column is without its labels
_MAX_LABEL = 72  # characters of a label; the middle of a longer one is left out
_DPI, _MAX_PIXELS = 150, 30_000  # Agg draws up to 65 535 along an axis


def mean_scores_chart(means: pd.DataFrame, *, title: str, unit: str | None = "") -> Figure:
    """Return a bar chart of mean scores, in the order of the table.

    The texts beside a bar are its mean, the number of scores in the mean, and the number of NaN
    scores. A dark tick marks the chance level if the table has one. More than 45 bars are spread
    over several columns.

    Args:
        means: A table such as `medcam.Evaluator.mean_scores`.
        title: The title of the chart, e.g. the metric's.
        unit: ``""`` for shares from 0 to 1, ``"mm"`` for distances, None where unknown.

    Example:
        >>> import pandas as pd
        >>> means = pd.DataFrame({"mean_score": [0.5], "layer": ["layer4"], "class_label": [None],
        ...                       "count": [3], "nan_count": [1]})
        >>> figure = mean_scores_chart(means, title="Dice coefficient")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['0.500', 'n = 2 (and 1 NaN)']
    """
    from matplotlib.figure import Figure  # costly to import; never pyplot, which has global state

    bars = means.astype(object).where(means.notna(), None).to_dict("records")
    classes = list(dict.fromkeys(bar["class_label"] for bar in bars))
    colors = dict.fromkeys(classes, _CLASS_COLORS[0])
    if 1 < len(classes) <= len(_CLASS_COLORS):
        colors = dict(zip(classes, _CLASS_COLORS, strict=False))

    width = _COLUMN_INCHES + max((_label_inches(_bar_label(bar)) for bar in bars), default=0)
    columns = 1
    if len(bars) > _MAX_ROWS:  # as many columns as make the figure about square
        columns = max(math.ceil(math.sqrt(len(bars) * _ROW_INCHES / width)), 2)
    rows = max(math.ceil(len(bars) / columns), 1)
    size = (columns * width, max(rows, 2) * _ROW_INCHES + 1.3)
    figure = Figure(figsize=size, dpi=min(_DPI, _MAX_PIXELS / max(size)))
    figure.set_layout_engine("constrained", w_pad=0.1)
    figure.suptitle(_shorten(title, 80), parse_math=False, fontsize=11, color=_DARK)
    for number in range(columns):
        axes = figure.add_subplot(1, columns, number + 1)
        column_bars = bars[number * rows : (number + 1) * rows]
        _draw_column(figure, axes, column_bars, colors, rows=rows)
        axes.set_xlim(*_score_limits(means, unit))
        axes.set_xlabel(f"mean score{f' [{unit}]' if unit else ''}", fontsize=8, color=_GREY)
    with_chance = "chance" in means and bool(means["chance"].notna().any())
    with_hatch = with_chance and bool((means["mean_score"] < means["chance"]).any())
    _add_legend(figure, colors, with_chance=with_chance, with_hatch=with_hatch)
    return figure


def _add_legend(
    figure: Figure, colors: dict[Any, str], *, with_chance: bool, with_hatch: bool
) -> None:
    """Add the colours of the classes, if they differ, and the marks of chance."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if len(set(colors.values())) > 1:
        handles += [
            Patch(color=color, label=_class_name(class_label, 40))
            for class_label, color in colors.items()
        ]
    if with_chance:
        handles.append(
            Line2D(
                [],
                [],
                color=_DARK,
                marker="|",
                markersize=9,
                ls="",
                label="chance level",
            )
        )
    if with_hatch:
        patch = Patch(facecolor=_GREY, hatch="////", edgecolor="white", label="below chance")
        handles.append(patch)
    if not handles:
        return
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 4),
        frameon=False,
        fontsize=8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_column(
    figure: Figure,
    axes: Axes,
    bars: list[Any],
    colors: dict[Any, str],
    *,
    rows: int,
) -> None:
    """Draw one column of bars, the first at the top."""
    from matplotlib.transforms import offset_copy

    positions = np.arange(len(bars))
    means = np.array([bar["mean_score"] for bar in bars], dtype=float)
    chances = np.array([bar.get("chance", math.nan) for bar in bars], dtype=float)
    drawn = axes.barh(
        positions,
        np.where(np.isfinite(means), means, 0),
        height=0.72,
        color=[colors[bar["class_label"]] for bar in bars],
        zorder=2,
    )
    for bar, mean, chance in zip(drawn, means, chances, strict=True):
        if mean < chance:
            bar.set(hatch="////", edgecolor="white")  # below chance
    axes.vlines(chances, positions - 0.42, positions + 0.42, color=_DARK, lw=1.2, zorder=3)
    row_transform = axes.get_yaxis_transform()  # x in axes coordinates, y in data coordinates
    sizes = [len(list(group)) for _, group in groupby(bar["layer"] for bar in bars)]
    if max(sizes, default=0) > 1:  # lines between the layers, if a layer has several classes
        ends = [end - 0.5 for end in accumulate(sizes[:-1])]
        axes.hlines(ends, 0, 1, transform=row_transform, color=_PALE, lw=0.8, zorder=0)

    style: dict[str, Any] = {"va": "center", "fontsize": 7.5}
    mean_transform, count_transform = (
        offset_copy(row_transform, figure, x=points, units="points") for points in (6, 50)
    )
    counts = [f"n = {bar['count'] - bar['nan_count']} (and {bar['nan_count']} NaN)" for bar in bars]
    counts = [count.removesuffix(" (and 0 NaN)") for count in counts]
    widest = max(range(len(bars)), key=lambda position: len(counts[position]), default=0)
    for position, count in enumerate(counts):
        mean = _mean_text(means[position])
        axes.text(
            1, position, mean, color=_DARK, transform=mean_transform, in_layout=False, **style
        )
        text = axes.text(1, position, count, color=_GREY, transform=count_transform, **style)
        # The layout measures the widest text only: measuring thousands takes a minute.
        text.set_in_layout(position == widest)
    if not bars:
        axes.text(0.5, 0, "no scores", ha="center", color=_GREY, transform=row_transform, **style)
    axes.set_yticks(positions, [_bar_label(bar) for bar in bars], fontsize=8, parse_math=False)
    axes.set_ylim(max(rows, 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, color=_GREY, labelcolor=_GREY)
    axes.grid(axis="x", color=_PALE, lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(_GREY)


def _score_limits(means: pd.DataFrame, unit: str | None) -> tuple[float, float]:
    """Return the range of the score axis, which all columns share."""
    if unit == "":
        return 0.0, 1.0
    finite = [value for value in means["mean_score"] if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    margin = 0.05 * (high - low) or 1.0
    return (low - margin if low < 0 else 0.0), high + margin


def _bar_label(bar: dict[Any, Any]) -> str:
    """Return the label of a bar: its layer, and its class if there is one."""
    class_label = bar["class_label"]
    class_name = "" if class_label is None else _class_name(class_label, 26)
    if bar["layer"] in (None, ""):
        return class_name or "neither layer nor class"
    ending = f" · {class_name}" if class_name else ""
    return _shorten(bar["layer"], _MAX_LABEL - len(ending)) + ending


def _class_name(class_label: Any, max_length: int) -> str:
    """Return a class's name: "class 3" for a number, and text as it is."""
    if class_label is None:
        return "no class"
    if isinstance(class_label, int):
        return f"class {class_label}"
    return _shorten(class_label, max_length)


def _label_inches(label: str) -> float:
    """Return an estimate of the width of a label."""
    return sum(0.062 if letter.islower() or letter in "._" else 0.11 for letter in label)


def _shorten(value: Any, max_length: int) -> str:
    """Return a value as one line of text; the middle of a longer line is left out."""
    text = "".join(letter if letter.isprintable() else "�" for letter in str(value))
    if len(text) <= max_length:
        return text
    half = (max_length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _mean_text(mean: float) -> str:
    """Return a mean as text with three or four digits."""
    if math.isnan(mean):
        return "NaN"
    if mean == 0 or 0.01 <= abs(mean) < 10:
        return f"{mean:.3f}"
    return f"{mean:.2f}" if 10 <= abs(mean) < 100 else f"{mean:.3g}"
