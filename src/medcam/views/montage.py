"""`medcam.montage`: the maps of one sample as a figure for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medcam.attention import Explanation
from medcam.errors import InputError, unknown_name
from medcam.files.image import Image
from medcam.methods import MethodLike
from medcam.views.images import displayed, image_of, labels_of, mask_of
from medcam.views.panels import Row, Style
from medcam.views.report.embedded import grid_of
from medcam.views.report.grid import Grid, Plane
from medcam.views.report.pictures import OPACITY
from medcam.views.report.values import ReportCase
from medcam.views.report.windows import windows_of
from medcam.views.rows import Drawing
from medcam.views.selection import attention_maps, maps_of
from medcam.views.sheet import draw
from medcam.views.slices import Cut, PlaneName, listed_slices, planes_of, slices_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SLICES = 6  # of a volume, where nothing is said
_MANY = 6  # rows; more maps are drawn as tiles, on one slice
_TILES = 6  # side by side

Window = tuple[float, float] | str


def montage(
    explanation_or_maps: object,
    image: object = None,
    *,
    affine: object = None,
    mask: object = None,
    sample: int = 0,
    target: int | None = None,
    method: MethodLike | None = None,
    layer: str | None = None,
    slices: int | Sequence[int] | None = None,
    plane: PlaneName = "auto",
    window: Window | None = None,
    colormap: str | None = None,
    opacity: float = OPACITY,
    threshold: float = 0.0,
    columns: int | None = None,
    title: str | None = None,
) -> Figure:
    """Gives the maps of one sample as a figure: rows of maps, columns of slices.

    Volumes: a row of slices of the image, and one for each map, spread over where the maps are,
    each with its position in mm. Slices lie as radiologists look at them (the patient's right on
    the left) and with the voxels' true proportions; margins where nothing is are out of view.
    Pictures: image, map and overlay side by side. More than six maps (``layer="full"``), or
    ``slices=1``: one tile for each map, in the model's order, all on the slice where most of them
    is, each in colours of its own scale: which depth looks where.

    Colours: ``inferno`` from 0 to the 99.9th percentile of a map, ``coolwarm`` symmetric about 0
    for a signed one; the opacity grows with the magnitude. No state of pyplot's is touched. Panels
    can be found by ``axes.get_gid()`` ("image:axial:45", "map:0:axial:45", "colorbar:1"), the
    artists in them by theirs ("image", "map", "mask"); axes are in mm (voxels, where no size is
    known).

    Args:
        explanation_or_maps: What `medcam.explain` gave; one `AttentionMap`, several, or a mapping
            of them; or an array of maps ``[*space]`` or ``[batch, targets, *space]``.
        image: What the maps are laid over: a path, an `Image` of `medcam.files`, an array or
            tensor, a MetaTensor. None: the input that the explanation was made of; the maps alone
            if it is not known.
        affine: 4x4, from voxel indices to RAS+ mm. None: the image's own, if it has one; else sides
            and millimetres are not known, and none are shown.
        mask: A region, 0/1, drawn as a white line; a path, or as `image`.
        sample: Which one of the batch.
        target: Only the maps of this class (of maps of no class: this one of the targets).
        method: Only this method's maps.
        layer: Only this layer's maps.
        slices: How many slices, at most; or which, by their indices in the image. None: six.
        plane: "axial", "coronal", "sagittal" or "all". "auto": the plane that thick slices were
            taken in, else the axial one.
        window: Black and white: two values, or "lung", "soft tissue", "bone" or "brain" in
            Hounsfield units. None: that of soft tissue for CT, else from the 0.5th to the 99.5th
            percentile.
        colormap: A name of matplotlib's, for all maps.
        opacity: That of the strongest colour, in [0, 1].
        threshold: The share of the strongest colour below which maps are hidden, in [0, 1].
        columns: How many panels stand side by side; a row that has more goes on in the next line.
        title: A line above all.

    Returns:
        A matplotlib figure on an Agg canvas, to be restyled or saved. The same maps give the same
        bytes.

    Raises:
        InputError: Something given does not fit; the message says what is allowed.
        MaskError: A mask of another shape, or not 0/1.
        UnknownNameError: No such layer, method, plane, window or colormap.

    Example:
        >>> volume = np.zeros((8, 9, 10))
        >>> volume[3:5, 4:6, 2:7] = 1
        >>> figure = montage(volume, volume, affine=np.diag([1, 1, 4, 1.0]), slices=3)
        >>> [axes.get_gid() for axes in figure.axes][:4]
        ['image:axial:2', 'image:axial:4', 'image:axial:6', 'map:0:axial:2']
        >>> figure.axes[0].get_label()
        'image, axial, S 8.0 mm'
    """
    case, under = case_of(
        explanation_or_maps, image, affine=affine, mask=mask, sample=sample, target=target,
        method=method, layer=layer,
    )  # fmt: skip
    return draw_case(
        case, bare=under is None, spacing=None if under is None else under.spacing, slices=slices,
        plane=plane, window=window, colormap=colormap, opacity=opacity, threshold=threshold,
        columns=columns, title=title,
    )  # fmt: skip


def case_of(
    explanation_or_maps: object,
    image: object = None,
    *,
    affine: object = None,
    mask: object = None,
    segmentation: object = None,
    sample: int = 0,
    target: int | None = None,
    method: MethodLike | None = None,
    layer: str | None = None,
    **about: Any,
) -> tuple[ReportCase, Image | None]:
    """Gives what is drawn of one sample, and its image; without one the case's image is blank.

    Args:
        explanation_or_maps: As all others but the last, see `montage`.
        image: See there.
        affine: See there.
        mask: See there.
        segmentation: What the model predicted, labels; given as the mask is.
        sample: See there.
        target: See there.
        method: See there.
        layer: See there.
        **about: Other attributes of the case: ``name``, ``scores``, ``provenance``, ``modality``.
    """
    maps = attention_maps(explanation_or_maps)
    axes, batch = maps[0].values.ndim - 2, len(maps[0].values)
    seen = explanation_or_maps.inputs if isinstance(explanation_or_maps, Explanation) else None
    given = seen if image is None else image
    under = None
    if given is not None:
        under = image_of(given, axes, sample=sample, batch=batch, affine=affine)
    shown = maps_of(
        maps, sample=sample, target=target, method=method, layer=layer,
        space=None if under is None else under.space,
        covers=None if seen is None else seen.shape[2:],
    )  # fmt: skip
    place = affine if under is None else under.affine
    case = ReportCase(
        about.pop("name", ""),
        np.zeros(shown[0].values.shape, np.float32) if under is None else displayed(under),
        shown,
        affine=place if axes == 3 else None,  # type: ignore[arg-type]  # it is checked there
        mask=None if mask is None else mask_of(mask, axes, sample=sample, batch=batch),
        segmentation=None
        if segmentation is None
        else labels_of(segmentation, axes, sample=sample, batch=batch),
        **about,
    )
    return case, under


def draw_case(
    case: ReportCase,
    *,
    bare: bool = False,
    spacing: Sequence[float] | None = None,
    slices: int | Sequence[int] | None = None,
    plane: PlaneName = "auto",
    window: Window | None = None,
    colormap: str | None = None,
    opacity: float = OPACITY,
    threshold: float = 0.0,
    columns: int | None = None,
    title: str | None = None,
) -> Figure:
    """`montage` of a case of a report.

    Args:
        case: The case; it has a map.
        bare: Whether there is no image to show, and the case's stands for its shape only.
        spacing: The voxel's extents in mm along the stored axes, where the case has no affine.
        slices: As all others, see `montage`.
        plane: See there.
        window: See there.
        colormap: See there.
        opacity: See there.
        threshold: See there.
        columns: See there.
        title: See there.
    """
    _check(opacity, threshold, columns, slices, colormap)
    grid = _sized(grid_of(case), case, spacing)
    style = Style(_window(case, window), colormap, opacity, threshold)
    drawing = Drawing(case, grid, style, bare)
    tiles = slices == 1 or (slices is None and len(case.maps) > _MANY)
    rows: list[Row] = []
    most = 1
    for one in planes_of(grid, plane) if case.is_volume else [grid.planes[-1]]:
        cuts = _cuts(case, grid, one, 1 if tiles else slices)
        box = drawing.box(one, cuts)
        added = (
            drawing.tiles(cuts[0], box)
            if tiles and (case.is_volume or len(case.maps) > 1)
            else drawing.slices(cuts, box)
            if case.is_volume
            else drawing.pictures(cuts[0], box)
        )
        rows += [replace(row, gid=f"{len(rows) + n}") for n, row in enumerate(added)]
        most = max(most, *(len(row.panels) for row in added))
    return draw(rows, style, columns=columns or (min(most, _TILES) if tiles else most), title=title)


def _cuts(
    case: ReportCase, grid: Grid, plane: Plane, slices: int | Sequence[int] | None
) -> list[Cut]:
    if not case.is_volume:
        return [Cut(plane, 0)]
    if isinstance(slices, Sequence | np.ndarray):
        return [Cut(plane, index) for index in listed_slices(slices, grid, plane)]
    arranged = [grid.arrange(one.values) for one in case.maps]
    count = _SLICES if slices is None else slices
    chosen = slices_of(arranged, plane.through, grid.shape[plane.through], count)
    return [Cut(plane, index) for index in chosen]


def _sized(grid: Grid, case: ReportCase, spacing: Sequence[float] | None) -> Grid:
    """The grid with the size of its voxels, which may be known where their place is not."""
    if case.affine is not None or spacing is None:
        return grid
    sizes = (*spacing, 1.0) if case.is_volume else (spacing[1], spacing[0], 1.0)
    return replace(grid, spacing=(float(sizes[0]), float(sizes[1]), float(sizes[2])))


def _window(case: ReportCase, wanted: Window | None) -> tuple[float, float]:
    if wanted is None:
        first = windows_of(case.image, modality=case.modality)[0]
        return first.low, first.high
    if isinstance(wanted, str):
        known = windows_of(np.zeros((1, 1)), modality="CT")
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
