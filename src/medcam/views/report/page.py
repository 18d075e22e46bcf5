"""Write the report: one HTML file that opens from disk, without a network and without WebGL."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path

from medcam.files.formats.nifti import voxel_sizes
from medcam.views.figures import to_data_uri
from medcam.views.report import pictures, tables
from medcam.views.report.embedded import embed, is_large, start_voxel
from medcam.views.report.opening import first_map
from medcam.views.report.outcome import outcome_section
from medcam.views.report.template import embedded_json, render_template, write_page
from medcam.views.report.trust import trust_section
from medcam.views.scene.grey_windows import grey_windows
from medcam.views.scene.grid import Grid
from medcam.views.scene.values import Scene
from medcam.views.signals.drawing import draw_curves, thumbnail

_TIMES = "×"  # noqa: RUF001 # the multiplication sign is intended
_SCRIPTS = ("unpack.js", "readings.js", "marks.js", "viewer.js", "controls.js")  # joined to one
_PREVIEW_SIDE = 320  # pixels of a preview's longer side


def render_report(scene: Scene) -> str:
    """Return the report of a scene as HTML text.

    The page is self-contained: it embeds images and maps as compressed bytes, its style and its
    script, whose hashes are in its content security policy. All names and labels are escaped. The
    readings in the page equal the arrays' values to within half of a step that the page states.
    Maps of more than 256³ voxels are embedded as the means of 2×2×2 voxels, which the page states,
    too. The page of a signal holds its curves as a picture, without a script.

    Args:
        scene: The scene to show.

    Example:
        >>> import numpy as np
        >>> page = render_report(Scene("<b>", np.zeros((2, 3))))
        >>> "<b>" in page, "&lt;b&gt;" in page
        (False, True)
    """
    if scene.is_signal:
        return render_template(
            "signal.html.j2",
            style="report.css",
            scene=scene,
            facts=signal_facts(scene),
            curves=to_data_uri(draw_curves(scene)) if scene.maps else "",
            scores=tables.table(scene.scores),
            trust=trust_section(scene.check),
            outcome=outcome_section(scene.prediction),
            provenance=tables.flatten(scene.provenance),
        )
    grid, previews = scene.grid, previews_of(scene, side=_PREVIEW_SIDE)
    data, blobs = embed(scene)
    return render_template(
        "report.html.j2",
        style="report.css",
        scripts=_SCRIPTS,
        scene=scene,
        grid=grid,
        facts=_image_facts(scene, grid),
        panes=list(zip(grid.planes, previews, strict=True)),
        scores=tables.table(scene.scores),
        trust=trust_section(scene.check),
        outcome=outcome_section(scene.prediction),
        provenance=tables.flatten(scene.provenance),
        data=embedded_json(data),
        blobs=blobs,
        halved=is_large(grid),
    )


def write_report(path: str | PathLike[str], scene: Scene) -> Path:
    """Write the report of a scene to a file; the write is atomic.

    Args:
        path: The file; missing folders are created.
        scene: The scene to show.

    Raises:
        SaveError: The file could not be written.

    Example:
        >>> import tempfile, numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(Path(folder, "a.html"), Scene("a", np.zeros((2, 3)))).name
        'a.html'
    """
    return write_page(Path(path), render_report(scene))


def previews_of(scene: Scene, *, side: int) -> list[str]:
    """Return the pictures that a page shows first, one data URI for each plane of the grid.

    They show the map that the page opens on.

    Args:
        scene: The scene.
        side: The longer side of each picture, in pixels.
    """
    shown = scene.maps[first_map(scene)] if scene.maps else None
    if scene.is_signal:
        return [to_data_uri(thumbnail(replace(scene, maps=[shown] if shown else [])))]
    grid = scene.grid
    start = start_voxel(scene, grid)
    window = grey_windows(scene.image, modality=scene.modality)[0]
    return [
        pictures.to_png(
            pictures.draw_slice(plane, grid, start, scene.image, window, shown),
            aspect=grid.spacing[plane.down] / grid.spacing[plane.across],
            side=side,
        )
        for plane in grid.planes
    ]


def _image_facts(scene: Scene, grid: Grid) -> list[str]:
    """Return the facts about the image that stand below the title."""
    facts = []
    if scene.modality:
        facts.append(scene.modality)
    if scene.is_volume:
        facts.append(f" {_TIMES} ".join(str(extent) for extent in scene.space) + " voxels")
        if grid.affine is None:
            facts.append("orientation unknown")
        else:
            spacing = voxel_sizes(scene.affine)
            facts.append(f" {_TIMES} ".join(f"{size:.4g}" for size in spacing) + " mm")
        if grid.oblique:
            facts.append(f"oblique by {grid.oblique:.0f}°")
    else:
        height, width = scene.space
        facts.append(f"{width} {_TIMES} {height} pixels")
    return facts


def signal_facts(scene: Scene) -> list[str]:
    """Return the facts about a signal that stand below the title.

    Example:
        >>> import numpy as np
        >>> signal_facts(Scene("a", np.zeros((12, 5000)), is_signal=True, sampling_rate=500))
        ['12 channels', '5000 samples', '10 s at 500 Hz']
    """
    channels, samples = scene.image.shape
    facts = [f"{channels} channel{'s' if channels > 1 else ''}", f"{samples} samples"]
    if scene.sampling_rate is not None:
        seconds = samples / scene.sampling_rate
        facts.append(f"{seconds:.4g} s at {scene.sampling_rate:.4g} Hz")
    return facts
