"""The page: one HTML file that opens from disk, without a network and without WebGL."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from medcam.files.formats.nifti import voxel_sizes
from medcam.views.report import pictures, tables
from medcam.views.report.embedded import embed, is_large, start_of
from medcam.views.report.template import embedded_json, render_template, write_page
from medcam.views.scene.grey_windows import grey_windows
from medcam.views.scene.grid import Grid
from medcam.views.scene.values import Scene

_TIMES = "×"  # noqa: RUF001 # the sign itself
_SCRIPTS = ("unpack.js", "readings.js", "viewer.js", "controls.js")  # one script in the page
_PREVIEW = 320  # pixels of a preview's longer side


def render_report(case: Scene) -> str:
    """Gives the page of a case as HTML text.

    The page holds all it needs: images and maps as zipped bytes, the style and the script, whose
    hashes its content security policy names. Names and labels are escaped. Readings in the page are
    the arrays' values to within half of a step that the page states; maps of more than 256³ voxels
    are embedded as the means of 2×2×2 voxels, which the page states, too.

    Args:
        case: What to show.

    Example:
        >>> import numpy as np
        >>> page = render_report(Scene("<b>", np.zeros((2, 3))))
        >>> "<b>" in page, "&lt;b&gt;" in page
        (False, True)
    """
    grid, previews = case.grid, previews_of(case, side=_PREVIEW)
    data, blobs = embed(case)
    return render_template(
        "report.html.j2",
        style="report.css",
        scripts=_SCRIPTS,
        case=case,
        grid=grid,
        facts=_facts(case, grid),
        panes=list(zip(grid.planes, previews, strict=True)),
        scores=tables.table(case.scores),
        provenance=tables.flatten(case.provenance),
        data=embedded_json(data),
        blobs=blobs,
        halved=is_large(grid),
    )


def write_report(path: str | PathLike[str], case: Scene) -> Path:
    """Writes the page of a case, complete or not at all.

    Args:
        path: The file; missing folders are made.
        case: What to show.

    Raises:
        SaveError: The file could not be written.

    Example:
        >>> import tempfile, numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(Path(folder, "a.html"), Scene("a", np.zeros((2, 3)))).name
        'a.html'
    """
    return write_page(Path(path), render_report(case))


def previews_of(case: Scene, *, side: int) -> list[str]:
    """Gives the pictures that a page opens with, as data URIs, in the order of its planes.

    Args:
        case: The case.
        side: The longer side of each, in pixels.
    """
    grid = case.grid
    start = start_of(case, grid)
    window = grey_windows(case.image, modality=case.modality)[0]
    shown = case.maps[0] if case.maps else None
    return [
        pictures.to_png(
            pictures.draw_slice(plane, grid, start, case.image, window, shown),
            aspect=grid.spacing[plane.down] / grid.spacing[plane.across],
            side=side,
        )
        for plane in grid.planes
    ]


def _facts(case: Scene, grid: Grid) -> list[str]:
    """What is known about the image, in a line."""
    facts = []
    if case.modality:
        facts.append(case.modality)
    if case.is_volume:
        facts.append(f" {_TIMES} ".join(str(extent) for extent in case.space) + " voxels")
        if grid.affine is None:
            facts.append("orientation unknown")
        else:
            spacing = voxel_sizes(case.affine)
            facts.append(f" {_TIMES} ".join(f"{size:.4g}" for size in spacing) + " mm")
        if grid.oblique:
            facts.append(f"oblique by {grid.oblique:.0f}°")
    else:
        height, width = case.space
        facts.append(f"{width} {_TIMES} {height} pixels")
    return facts
