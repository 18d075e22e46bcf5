"""The demo's figure: one row of maps per task, with the table of scores below."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.demo.assets import load_head
from medcam.demo.gallery import GalleryRow, GalleryTile, draw_gallery, save_gallery
from medcam.demo.gallery_table import ScoreTable
from medcam.demo.results import HOW_TO_READ, METRICS, MethodResult, group_by_task, layer_names
from medcam.demo.tasks import DemoTask

_NOTE_WIDTH = 172  # characters of a note on one line of the figure


def save_figure(results: Sequence[MethodResult], path: Path) -> Path:
    """Save the gallery of the results, with the scores below, as a PNG file.

    Args:
        results: The results of `medcam.demo.results.run_tasks`, all methods of each task.
        path: The PNG file. Equal results give equal bytes.

    Raises:
        SaveError: The file could not be written.
    """
    groups = group_by_task(results)
    gallery = draw_gallery([_gallery_row(group) for group in groups], _score_table(groups))
    return save_gallery(path, gallery)


def _gallery_row(results: Sequence[MethodResult]) -> GalleryRow:
    task = results[0].task
    sample, to_picture = task.shown, _plane_of_figure(task)
    tiles = [
        GalleryTile(result.title, to_picture(result.maps[sample, 0]), result.signed)
        for result in results
    ]
    mask = to_picture(task.masks[sample, 0].numpy())
    image = to_picture(_image(task))
    return GalleryRow(task.title, image, mask, tiles, note=task.question, sides=task.sides)


def _image(task: DemoTask) -> NDArray[np.float32]:
    if task.raw_input is not None:
        return task.raw_input[task.shown, 0].numpy()
    # The scan was interpolated, so some air is below 0. Unclipped, the rest of the air would be
    # dark grey instead of black.
    return load_head().volume.clip(min=0)


def _score_table(groups: Sequence[Sequence[MethodResult]]) -> ScoreTable:
    rows = [
        (result.title, [group[index].means[metric] for group in groups for metric in METRICS])
        for index, result in enumerate(groups[0])
    ]
    chance = [group[0].means["chance"] for group in groups for _ in METRICS]
    notes = [*textwrap.wrap(HOW_TO_READ, _NOTE_WIDTH), _sample_note(groups)]
    titles = [group[0].task.title for group in groups]
    return ScoreTable(titles, list(METRICS.values()), rows, ("By chance", chance), notes)


def _sample_note(groups: Sequence[Sequence[MethodResult]]) -> str:
    """Return the note on the number of images and the layers."""
    counts = ", ".join(str(len(group[0].task.samples)) for group in groups)
    layers = ", ".join(layer_names(group) for group in groups)
    return f"Means over {counts} images; the figure shows one of each. Layers: {layers}."


def _plane_of_figure(task: DemoTask) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the function that reduces an array on the task's grid to a picture.

    2D arrays stay as they are. Of a volume, it takes the axial plane with the largest area of the
    mask, in the radiological convention.
    """
    masks = task.masks.numpy()[:, 0]
    if masks.ndim == 3:
        return lambda values: values
    import nibabel.orientations as orientations

    to_lps = orientations.ornt_transform(
        orientations.io_orientation(load_head().affine), orientations.axcodes2ornt("LPS")
    )
    mask = orientations.apply_orientation(masks[0], to_lps)
    plane = int(mask.sum((0, 1)).argmax())

    def axial_plane(values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(orientations.apply_orientation(values, to_lps)[:, :, plane].T)

    return axial_plane
