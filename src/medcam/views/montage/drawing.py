"""Draw a scene as a montage: rows of maps, columns of slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medcam.errors import InputError, unknown_name
from medcam.views.colors import OPACITY
from medcam.views.montage.panels import Row, Style
from medcam.views.montage.rows import Drawing
from medcam.views.montage.sheet import draw
from medcam.views.montage.slices import Cut, PlaneName, listed_slices, planes_of, slices_of
from medcam.views.scene.grey_windows import grey_windows
from medcam.views.scene.grid import Grid, Plane
from medcam.views.scene.values import Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SLICES = 6  # of a volume, where nothing is said
_MANY = 6  # rows; more maps are drawn as tiles, on one slice
_TILES = 6  # side by side

WindowLike = tuple[float, float] | str
"""Black and white: two values, or the name of a window in Hounsfield units."""


def draw_montage(
    scene: Scene,
    *,
    bare: bool = False,
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
    """Return a scene as a figure.

    Args:
        scene: The scene; it has a map.
        bare: Whether there is no image to show, and the scene's stands for its shape only.
        spacing: The voxel's extents in mm along the stored axes, if the scene has no affine.
        slices: As all others, see `medcam.montage`.
        plane: See there.
        window: See there.
        colormap: See there.
        opacity: See there.
        threshold: See there.
        columns: See there.
        title: See there.
    """
    _check(opacity, threshold, columns, slices, colormap)
    grid = _sized(scene.grid, scene, spacing)
    style = Style(_window(scene, window), colormap, opacity, threshold)
    drawing = Drawing(scene, grid, style, bare)
    tiles = slices == 1 or (slices is None and len(scene.maps) > _MANY)
    rows: list[Row] = []
    most = 1
    for one in planes_of(grid, plane) if scene.is_volume else [grid.planes[-1]]:
        cuts = _cuts(scene, grid, one, 1 if tiles else slices)
        box = drawing.box(one, cuts)
        added = (
            drawing.tiles(cuts[0], box)
            if tiles and (scene.is_volume or len(scene.maps) > 1)
            else drawing.slices(cuts, box)
            if scene.is_volume
            else drawing.pictures(cuts[0], box)
        )
        rows += [replace(row, gid=f"{len(rows) + n}") for n, row in enumerate(added)]
        most = max(most, *(len(row.panels) for row in added))
    return draw(rows, style, columns=columns or (min(most, _TILES) if tiles else most), title=title)


def _cuts(scene: Scene, grid: Grid, plane: Plane, slices: int | Sequence[int] | None) -> list[Cut]:
    if not scene.is_volume:
        return [Cut(plane, 0)]
    if isinstance(slices, Sequence | np.ndarray):
        return [Cut(plane, index) for index in listed_slices(slices, grid, plane)]
    arranged = [grid.arrange(one.values) for one in scene.maps]
    count = _SLICES if slices is None else slices
    chosen = slices_of(arranged, plane.through, grid.shape[plane.through], count)
    return [Cut(plane, index) for index in chosen]


def _sized(grid: Grid, scene: Scene, spacing: Sequence[float] | None) -> Grid:
    """The grid with the size of its voxels, which may be known where their place is not."""
    if scene.affine is not None or spacing is None:
        return grid
    sizes = (*spacing, 1.0) if scene.is_volume else (spacing[1], spacing[0], 1.0)
    return replace(grid, spacing=(float(sizes[0]), float(sizes[1]), float(sizes[2])))


def _window(scene: Scene, wanted: WindowLike | None) -> tuple[float, float]:
    if wanted is None:
        first = grey_windows(scene.image, modality=scene.modality)[0]
        return first.low, first.high
    if isinstance(wanted, str):
        known = grey_windows(np.zeros((1, 1)), modality="CT")
        presets = {one.name.lower(): (one.low, one.high) for one in known[:-1]}
        if wanted.lower() not in presets:
            raise unknown_name("Window", wanted, presets, more="Or give two values, (low, high).")
        return presets[wanted.lower()]
    low, high = (float(value) for value in wanted) if len(wanted) == 2 else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(f"window={wanted!r}: give the values of black and white, black first.")
    return low, high


def _check(
    opacity: float, threshold: float, columns: int | None, slices: object, colormap: str | None
) -> None:
    from matplotlib import colormaps

    for name, value in (("opacity", opacity), ("threshold", threshold)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value!r} is a share: give a number from 0 to 1.")
    for name, count in (("columns", columns), ("slices", slices)):
        one = count is None or (isinstance(count, int) and count >= 1)
        if not one and not (name == "slices" and isinstance(count, Sequence | np.ndarray)):
            raise InputError(f"{name}={count!r}: give a number from 1.")
    if colormap is not None and colormap not in colormaps:
        raise unknown_name("Colormap", colormap, colormaps)
