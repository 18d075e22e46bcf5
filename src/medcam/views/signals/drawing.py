"""Draw a signal's scene as curves: a block for each map, in it a strip for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcam.views.colors import OPACITY
from medcam.views.scene.values import Scene, SceneMap
from medcam.views.signals.curve import INK, blended, colours_of, strength_of, thinned
from medcam.views.texts import one_line, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DARK, _GREY, _PALE = "#222222", "#5c5c5c", "#e6e8eb"
_MASK, _PREDICTED = "#1f2933", "#1d9a5b"
_DPI = 150
_MOST_CHANNELS = 12  # strips of one map: the leads of an ECG
_SHADE = 0.42  # opacity of the shade, relative to the map's: the line stays legible on it
_MAPS_WITH_CHANNELS = 3  # of more maps, only the first channel is drawn

# Lengths in inches.
_WIDTH, _LEFT, _RIGHT = 9.0, 0.62, 0.95
_EDGE, _TITLE, _HEADING, _AXIS = 0.1, 0.27, 0.25, 0.42
_STRIP_ALONE, _STRIP = 1.75, 0.62
_BAR_WIDTH, _BAR_HEIGHT = 0.1, 1.4
_LETTER_WIDTH = 0.0078  # of an average letter, for each point of the font size


@dataclass(frozen=True)
class _Style:
    """The style that all strips share; see `draw_curves`."""

    colormap: str | None
    opacity: float
    threshold: float


def draw_curves(
    scene: Scene,
    *,
    maps_only: bool = False,
    colormap: str | None = None,
    opacity: float = OPACITY,
    threshold: float = 0.0,
    title: str | None = None,
) -> Figure:
    """Return the scene of a signal as a figure.

    Each map has a block: a strip for each of the first twelve channels, or for the first channel if
    there are more than three maps. The signal is a line whose colour and width grow with the
    attention, over a shade of the same colour. A mask is a black bar at the bottom, a prediction a
    green one.

    Args:
        scene: The scene, with at least one map.
        maps_only: Whether the signal is unknown: the map itself is the line.
        colormap: As in `medcam.montage`.
        opacity: As in `medcam.montage`; of the shade.
        threshold: As in `medcam.montage`.
        title: As in `medcam.montage`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    few = len(scene.maps) <= _MAPS_WITH_CHANNELS
    count = min(len(scene.image), _MOST_CHANNELS) if few else 1
    strip = _STRIP_ALONE if count == 1 and few else _STRIP * (1.25 if count == 1 else 1)
    block = _HEADING + count * strip + _AXIS
    top = _EDGE + (_TITLE if title else 0)
    height = top + len(scene.maps) * block + _EDGE / 2
    figure = Figure((_WIDTH, height), dpi=min(_DPI, 30_000 / height), facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        _write(figure, _EDGE, title, 11, _DARK, weight="bold", gid="title")
    style = _Style(colormap, opacity, threshold)
    for number, scene_map in enumerate(scene.maps):
        start = top + number * block
        note = "" if count == len(scene.image) else f" · first {count} of {len(scene.image)}"
        note = note.replace("first 1 of", "channel 1 of")
        _write(
            figure, start + 0.04, _heading(scene_map) + note + _legend(scene), 8.5, _DARK,
            gid=f"heading:{number}",
        )  # fmt: skip
        signals = scene_map.values[None] if maps_only else scene.image[:count]
        for channel, signal in enumerate(signals):
            place = (start + _HEADING + channel * strip, strip)
            axes = _strip_axes(figure, place, f"map:{number}:channel:{channel}")
            label = f"{_heading(scene_map)}, channel {channel + 1}"
            axes.set_label(label)
            _draw_strip(axes, scene, scene_map, signal, style)
            name = str(channel + 1) if len(scene.image) > 1 and not maps_only else ""
            _finish_axes(axes, scene, name, last=channel == len(signals) - 1)
        bar_height = min(_BAR_HEIGHT, len(signals) * strip - 0.1)
        middle = start + _HEADING + len(signals) * strip / 2
        _draw_bar(figure, scene_map, number, style, (middle - bar_height / 2, bar_height))
    return figure


def _strip_axes(figure: Figure, place: tuple[float, float], gid: str) -> Axes:
    """Return the axes of a strip, given its top and height in inches."""
    top, strip = place
    width, height = figure.get_size_inches()
    inside = (width - _LEFT - _RIGHT) / width
    axes = figure.add_axes((_LEFT / width, 1 - (top + strip) / height, inside, strip / height))
    axes.set_gid(gid)
    return axes


def _draw_strip(
    axes: Axes, scene: Scene, scene_map: SceneMap, signal: NDArray[Any], style: _Style
) -> None:
    """Draw one channel: a shade and a line in the colours of the attention, mask and prediction."""
    from matplotlib.collections import LineCollection

    values = np.nan_to_num(signal.astype(np.float64), posinf=0.0, neginf=0.0)
    lowest = -1.0 if scene_map.signed else 0.0
    indices, attention = thinned(values, scene_map.values)
    scaled = np.clip(attention / scene_map.scale_top, lowest, 1.0)
    step = 1 / (scene.sampling_rate or 1)
    times, heights = indices * step, values[indices]
    low, high = _limits(values)
    axes.set_xlim(-0.5 * step, (len(values) - 0.5) * step)
    axes.set_ylim(low, high)
    colours = colours_of(scaled, signed=scene_map.signed, colormap=style.colormap)
    strength = strength_of(scaled, style.threshold)
    if len(times) > 1:
        columns = np.interp(np.linspace(0, 1, 1600), times / times[-1], np.arange(len(times)))
        nearest = np.rint(columns).astype(int)
        alpha = _SHADE * style.opacity * strength
        shade = np.column_stack([colours, alpha])[nearest][None]
        axes.imshow(
            shade, extent=(*axes.get_xlim(), low, high), aspect="auto", interpolation="nearest",
            zorder=0, gid="shade",
        )  # fmt: skip
        middle = (strength[:-1] + strength[1:]) / 2
        points = np.column_stack([times, heights])
        lines = LineCollection(
            list(np.stack([points[:-1], points[1:]], 1)),
            colors=blended((colours[:-1] + colours[1:]) / 2, middle), linewidths=0.8 + 0.8 * middle,
            capstyle="round", zorder=3,
        )  # fmt: skip
        lines.set_gid("signal")
        axes.add_collection(lines)
    for row, (labels, colour, gid) in enumerate(
        ((scene.mask, _MASK, "mask"), (scene.segmentation, _PREDICTED, "segmentation"))
    ):
        if labels is not None:
            _draw_spans(axes, labels != 0, step, row, colour, gid)


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the extent of the vertical axis, with a margin; of a constant, one unit."""
    low, high = float(values.min()), float(values.max())
    margin = 0.12 * (high - low) or 0.5
    return low - 1.35 * margin, high + margin


def _draw_spans(
    axes: Axes, inside: NDArray[np.bool_], step: float, row: int, colour: str, gid: str
) -> None:
    """Draw a bar at the bottom of a strip over each run of samples in a region."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    spans = [
        ((start - 0.5) * step, (end - start) * step)
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    ]
    if spans:
        bars = axes.broken_barh(
            spans, (0.015 + 0.05 * row, 0.035), transform=axes.get_xaxis_transform(),
            facecolors=colour, zorder=4,
        )  # fmt: skip
        bars.set_gid(gid)


def _finish_axes(axes: Axes, scene: Scene, name: str, *, last: bool) -> None:
    """Draw the ticks, the grid and the labels of a strip; only the last has a time axis."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    in_samples = scene.sampling_rate is None
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=in_samples, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.grid(axis="x", color=_PALE, linewidth=0.6, zorder=1)
    axes.set_axisbelow(False)
    for line in axes.get_xgridlines():
        line.set_zorder(1)
    axes.tick_params(labelsize=6.5, length=2, width=0.5, pad=2, colors=_GREY, labelbottom=last)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=_GREY if side == "left" or last else _PALE, linewidth=0.5)
    if not last:
        axes.tick_params(axis="x", length=0)
    if name:
        axes.text(
            -0.052, 0.5, name, transform=axes.transAxes, fontsize=7.5, color=_DARK, ha="right",
            va="center",
        )  # fmt: skip
    if last:
        unit = "sample" if scene.sampling_rate is None else "time (s)"
        axes.set_xlabel(unit, fontsize=7, color=_GREY, labelpad=2)


def _draw_bar(
    figure: Figure, scene_map: SceneMap, number: int, style: _Style, place: tuple[float, float]
) -> None:
    """Draw the colour bar of a map, at a place given by its top and height in inches."""
    from matplotlib.colorbar import ColorbarBase
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    width, height = figure.get_size_inches()
    top, bar = place
    left = (width - _RIGHT + 0.15) / width
    axes = figure.add_axes((left, 1 - (top + bar) / height, _BAR_WIDTH / width, bar / height))
    axes.set_gid(f"colorbar:{number}")
    lowest = -1.0 if scene_map.signed else 0.0
    scaled = np.linspace(lowest, 1, 256)
    colours = colours_of(scaled, signed=scene_map.signed, colormap=style.colormap)
    colours = blended(colours, strength_of(scaled, style.threshold))
    scale = scene_map.scale_top
    norm = Normalize(lowest * scale, scale)
    values = scene_map.values if scene_map.signed else scene_map.values.clip(min=0)
    clipped = float(np.abs(values).max()) > scale * (1 + 1e-6)
    drawn = ColorbarBase(
        axes, cmap=ListedColormap(colours), norm=norm, ticks=MaxNLocator(4, steps=[1, 2, 5, 10]),
        format=FuncFormatter(lambda value, _: short_number(value)), extendfrac=0.06,
        extend="neither" if not clipped else "both" if scene_map.signed else "max",
    )  # fmt: skip
    drawn.outline.set_linewidth(0.5)
    axes.tick_params(labelsize=6.5, length=2, width=0.5, pad=2, colors=_DARK)
    units = scene_map.units
    units = "raw units" if units == f"raw {scene_map.method} units" else units
    longest = max(int(bar / (6.5 * _LETTER_WIDTH)), 9)
    label = one_line(units, longest)
    axes.set_ylabel(label, fontsize=6.5, color=_GREY, labelpad=3, parse_math=False)
    axes.set_label(f"{units} of {_heading(scene_map)}")


def thumbnail(scene: Scene) -> Figure:
    """Return the first channel with the first map as a small figure without axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((2.24, 1.1), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.02, 0.04, 0.96, 0.92))
    axes.set_axis_off()
    if scene.maps:
        _draw_strip(axes, scene, scene.maps[0], scene.image[0], _Style(None, OPACITY, 0.0))
    else:
        axes.plot(scene.image[0], color=INK, linewidth=0.8)
    return figure


def _heading(scene_map: SceneMap) -> str:
    layer = "" if scene_map.layer is None else f"layer {scene_map.layer}"
    return " · ".join(part for part in (scene_map.method, layer, scene_map.target) if part)


def _legend(scene: Scene) -> str:
    """Return what the bars at the bottom of the strips are."""
    texts: Sequence[tuple[Any, str]] = (
        (scene.mask, " · black bar: mask"),
        (scene.segmentation, " · green bar: prediction"),
    )
    return "".join(text for labels, text in texts if labels is not None)


def _write(
    figure: Figure, y: float, text: str, size: float, colour: str, **properties: Any
) -> None:
    """Write one line ``y`` inches below the figure's top, shortened to the figure's width."""
    width, height = figure.get_size_inches()
    longest = int((width - 2 * _EDGE) / (size * _LETTER_WIDTH))
    figure.text(
        _EDGE / width, 1 - y / height, one_line(text, longest), fontsize=size, va="top", ha="left",
        color=colour, parse_math=False, **properties,
    )  # fmt: skip
