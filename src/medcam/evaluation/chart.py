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
_ROWS = 45  # bars in one column, as long as one suffices
_ROW_INCHES, _COLUMN_INCHES = 0.19, 4.2  # the latter without the labels
_LONGEST = 72  # letters of a label; longer ones lose their middle
_DPI, _MOST_PIXELS = 150, 30_000  # Agg draws up to 65 535 along an axis


def mean_scores_chart(means: pd.DataFrame, *, title: str, unit: str | None = "") -> Figure:
    """Gives a bar chart of mean scores, in the order of the table.

    Beside each bar stand the mean, the number of scores it is of, and that of NaN besides; a dark
    tick marks the chance level where the table has one. Many bars go into several columns.

    Args:
        means: As ``medcam.Evaluator.mean_scores`` gives it.
        title: What was measured.
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
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    bars = means.astype(object).where(means.notna(), None).to_dict("records")
    classes = list(dict.fromkeys(bar["class_label"] for bar in bars))
    colors = dict.fromkeys(classes, _CLASS_COLORS[0])
    if 1 < len(classes) <= len(_CLASS_COLORS):
        colors = dict(zip(classes, _CLASS_COLORS, strict=False))

    width = _COLUMN_INCHES + max((_inches(_label(bar)) for bar in bars), default=0)
    columns = 1
    if len(bars) > _ROWS:  # about as wide as high altogether
        columns = max(math.ceil(math.sqrt(len(bars) * _ROW_INCHES / width)), 2)
    rows = max(math.ceil(len(bars) / columns), 1)
    size = (columns * width, max(rows, 2) * _ROW_INCHES + 1.3)
    figure = Figure(figsize=size, dpi=min(_DPI, _MOST_PIXELS / max(size)))
    figure.set_layout_engine("constrained", w_pad=0.1)
    figure.suptitle(_short(title, 80), parse_math=False, fontsize=11, color=_DARK)
    for number in range(columns):
        axes = figure.add_subplot(1, columns, number + 1)
        part = bars[number * rows : (number + 1) * rows]
        _draw(figure, axes, part, colors, rows=rows)
        axes.set_xlim(*_limits(means, unit))
        axes.set_xlabel(f"mean score{f' [{unit}]' if unit else ''}", fontsize=8, color=_GREY)

    signs: list[Any] = []
    if len(set(colors.values())) > 1:
        signs += [Patch(color=colors[key], label=_class_name(key, 40)) for key in classes]
    if "chance" in means and means["chance"].notna().any():
        signs.append(
            Line2D([], [], color=_DARK, marker="|", markersize=9, ls="", label="chance level")
        )
    if signs:
        legend = figure.legend(
            handles=signs,
            loc="outside lower center",
            ncols=min(len(signs), 4),
            frameon=False,
            fontsize=8,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _draw(
    figure: Figure,
    axes: Axes,
    bars: list[Any],
    colors: dict[Any, str],
    *,
    rows: int,
) -> None:
    """Draws one column of bars, the first at the top."""
    from matplotlib.transforms import offset_copy

    places = np.arange(len(bars))
    means = np.array([bar["mean_score"] for bar in bars], dtype=float)
    chances = np.array([bar.get("chance", math.nan) for bar in bars], dtype=float)
    axes.barh(
        places,
        np.where(np.isfinite(means), means, 0),
        height=0.72,
        color=[colors[bar["class_label"]] for bar in bars],
        zorder=2,
    )
    axes.vlines(chances, places - 0.42, places + 0.42, color=_DARK, lw=1.2, zorder=3)
    beside = axes.get_yaxis_transform()  # x of the axes, y of the data
    sizes = [len(list(group)) for _, group in groupby(bar["layer"] for bar in bars)]
    if max(sizes, default=0) > 1:  # a line between layers of several classes
        ends = [end - 0.5 for end in accumulate(sizes[:-1])]
        axes.hlines(ends, 0, 1, transform=beside, color=_PALE, lw=0.8, zorder=0)

    small: dict[str, Any] = {"va": "center", "fontsize": 7.5}
    at_mean, at_count = (
        offset_copy(beside, figure, x=points, units="points") for points in (6, 50)
    )
    counts = [f"n = {bar['count'] - bar['nan_count']} (and {bar['nan_count']} NaN)" for bar in bars]
    counts = [count.removesuffix(" (and 0 NaN)") for count in counts]
    widest = max(range(len(bars)), key=lambda place: len(counts[place]), default=0)
    for place, count in enumerate(counts):
        mean = _number(means[place])
        axes.text(1, place, mean, color=_DARK, transform=at_mean, in_layout=False, **small)
        text = axes.text(1, place, count, color=_GREY, transform=at_count, **small)
        text.set_in_layout(place == widest)  # to measure each takes a minute for thousands
    if not bars:
        axes.text(0.5, 0, "no scores", ha="center", color=_GREY, transform=beside, **small)
    axes.set_yticks(places, [_label(bar) for bar in bars], fontsize=8, parse_math=False)
    axes.set_ylim(max(rows, 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, color=_GREY, labelcolor=_GREY)
    axes.grid(axis="x", color=_PALE, lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(_GREY)


def _limits(means: pd.DataFrame, unit: str | None) -> tuple[float, float]:
    """Gives the range of the score axis, the same in every column."""
    if unit == "":
        return 0.0, 1.0
    finite = [value for value in means["mean_score"] if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    room = 0.05 * (high - low) or 1.0
    return (low - room if low < 0 else 0.0), high + room


def _label(bar: dict[Any, Any]) -> str:
    """Gives the label of a bar: layer, and class if there is one."""
    label = bar["class_label"]
    named = "" if label is None else _class_name(label, 26)
    if bar["layer"] in (None, ""):
        return named or "neither layer nor class"
    ending = f" · {named}" if named else ""
    return _short(bar["layer"], _LONGEST - len(ending)) + ending


def _class_name(label: Any, longest: int) -> str:
    """Gives what a class is called: a number needs the word, what is in words does not."""
    if label is None:
        return "no class"
    return f"class {label}" if isinstance(label, int) else _short(label, longest)


def _inches(label: str) -> float:
    """Gives about the width of a label; it need not be exact."""
    return sum(0.062 if letter.islower() or letter in "._" else 0.11 for letter in label)


def _short(value: Any, longest: int) -> str:
    """Gives one line of at most so many letters; a longer one loses its middle."""
    text = "".join(letter if letter.isprintable() else "�" for letter in str(value))
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _number(mean: float) -> str:
    """Gives a mean with three or four digits."""
    if math.isnan(mean):
        return "NaN"
    if mean == 0 or 0.01 <= abs(mean) < 10:
        return f"{mean:.3f}"
    return f"{mean:.2f}" if 10 <= abs(mean) < 100 else f"{mean:.3g}"
