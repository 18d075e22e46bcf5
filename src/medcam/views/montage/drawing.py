"""Draw a scene as a montage: rows of maps, columns of slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medcam.errors import InputError, unknown_name
from medcam.views.colors import OPACITY
from medcam.views.montage.panels import PanelRow, Style
from medcam.views.montage.rows import RowBuilder
from medcam.views.montage.sheet import draw_rows
from medcam.views.montage.slices import Cut, PlaneName, choose_planes, choose_slices, listed_slices
from medcam.views.scene.grey_windows import grey_windows
from medcam.views.scene.grid import Grid, Plane
from medcam.views.scene.values import Scene
from medcam.views.signals.drawing import draw_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SLICES = 6  # default number of slices of a volume
_MAX_ROWS = 6  # more maps than this are drawn as tiles of one slice
_TILES = 6  # default number of tiles side by side

WindowLike = tuple[float, float] | str
"""The values of black and white, or the name of a window in Hounsfield units."""


def draw_montage(
    scene: Scene,
    *,
    maps_only: bool = False,
    spacing: Sequence[float] | None = None,
    slices: int | Sequence[int] | None = None,
    plane: PlaneName = "auto",
    window: WindowLike | None = None,
    colormap: str | None = None,
    opacity: float = OPACITY,
    threshold: float = 0.0,
    columns: int | None = None,
    title: str | None = None,
) -> Figure:
    """Return a scene as a figure; a signal as curves.

    All arguments but those described here are those of `medcam.montage`.

    Args:
        scene: The scene, with at least one map.
        maps_only: Whether the maps are drawn without the image, of which only the shape is used.
        spacing: The voxel's extents in mm along the stored axes, if the scene has no affine.
        slices: See `medcam.montage`.
        plane: See `medcam.montage`.
        window: See `medcam.montage`.
        colormap: See `medcam.montage`.
        opacity: See `medcam.montage`.
        threshold: See `medcam.montage`.
        columns: See `medcam.montage`.
        title: See `medcam.montage`.
    """
    _check_options(opacity, threshold, columns, slices, colormap)
    if scene.is_signal:
        return draw_curves(
            scene, maps_only=maps_only, colormap=colormap, opacity=opacity, threshold=threshold,
            title=title,
        )  # fmt: skip
    grid = _grid_with_spacing(scene, spacing)
    style = Style(_window_range(scene, window), colormap, opacity, threshold)
    builder = RowBuilder(scene, grid, style, maps_only)
    tiled = (isinstance(slices, int) and slices == 1) or (
        slices is None and len(scene.maps) > _MAX_ROWS
    )
    rows: list[PanelRow] = []
    most_panels = 1
    for shown_plane in choose_planes(grid, plane) if scene.is_volume else [grid.planes[-1]]:
        cuts = _cuts(scene, grid, shown_plane, 1 if tiled else slices)
        view = builder.view(shown_plane, cuts)
        plane_rows = (
            builder.tile_rows(cuts[0], view)
            if tiled and (scene.is_volume or len(scene.maps) > 1)
            else builder.slice_rows(cuts, view)
            if scene.is_volume
            else builder.picture_rows(cuts[0], view)
        )
        rows += [replace(row, gid=f"{len(rows) + n}") for n, row in enumerate(plane_rows)]
        most_panels = max(most_panels, *(len(row.panels) for row in plane_rows))
    columns = columns or (min(most_panels, _TILES) if tiled else most_panels)
    return draw_rows(rows, style, columns=columns, title=title)


def _cuts(scene: Scene, grid: Grid, plane: Plane, slices: int | Sequence[int] | None) -> list[Cut]:
    """Return the slices to draw in a plane: those listed, or those where the maps are strong."""
    if not scene.is_volume:
        return [Cut(plane, 0)]
    if isinstance(slices, Sequence | np.ndarray):
        return [Cut(plane, index) for index in listed_slices(slices, grid, plane)]
    arranged = [grid.arrange(scene_map.values) for scene_map in scene.maps]
    count = _SLICES if slices is None else slices
    indices = choose_slices(arranged, plane.through, grid.shape[plane.through], count)
    return [Cut(plane, index) for index in indices]


def _grid_with_spacing(scene: Scene, spacing: Sequence[float] | None) -> Grid:
    """Return the scene's grid; without an affine the voxel's size may still be known."""
    if scene.affine is not None or spacing is None:
        return scene.grid
    sizes = (*spacing, 1.0) if scene.is_volume else (spacing[1], spacing[0], 1.0)
    return replace(scene.grid, spacing=(float(sizes[0]), float(sizes[1]), float(sizes[2])))


def _window_range(scene: Scene, window: WindowLike | None) -> tuple[float, float]:
    """Return the values of black and white."""
    if window is None:
        default = grey_windows(scene.image, modality=scene.modality)[0]
        return default.low, default.high
    if isinstance(window, str):
        ct_windows = grey_windows(np.zeros((1, 1)), modality="CT")[:-1]  # without the full range
        presets = {preset.name.lower(): (preset.low, preset.high) for preset in ct_windows}
        if window.lower() not in presets:
            raise unknown_name("Window", window, presets, more="Or give two values, (low, high).")
        return presets[window.lower()]
    low, high = (float(value) for value in window) if len(window) == 2 else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(
            f"window={window!r}: give two finite values, those of black and white, black first."
        )
    return low, high


def _check_options(
    opacity: float, threshold: float, columns: int | None, slices: object, colormap: str | None
) -> None:
    """Raise an `InputError` if an option is outside its range."""
    from matplotlib import colormaps

    for name, value in (("opacity", opacity), ("threshold", threshold)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value!r}: give a number from 0 to 1.")
    for name, count in (("columns", columns), ("slices", slices)):
        valid = count is None or (isinstance(count, int) and count >= 1)
        if not valid and not (name == "slices" and isinstance(count, Sequence | np.ndarray)):
            raise InputError(f"{name}={count!r}: give a whole number of at least 1.")
    if colormap is not None and colormap not in colormaps:
        raise unknown_name("Colormap", colormap, colormaps)
