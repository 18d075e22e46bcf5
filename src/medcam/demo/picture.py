"""The figure: each task's image with its four maps, and the scores beneath."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.demo.assets import load_head
from medcam.demo.gallery import Row, Tile, gallery, save_gallery
from medcam.demo.gallery_table import ScoreTable
from medcam.demo.run import METRICS, READING, Result
from medcam.demo.tasks import Task


def figure(results: Sequence[Result], path: Path) -> Path:
    """Saves the gallery of the results: a row a task, the scores beneath.

    Args:
        results: Of `medcam.demo.run.run`, all methods of each task.
        path: The PNG file; the same results make the same bytes.
    """
    grouped = by_task(results)
    return save_gallery(path, gallery([_row(group) for group in grouped], _table(grouped)))


def by_task(results: Sequence[Result]) -> list[list[Result]]:
    """The results of each task, in their order."""
    groups: dict[int, list[Result]] = {}
    for result in results:
        groups.setdefault(id(result.task), []).append(result)
    return list(groups.values())


def layers(results: Sequence[Result]) -> str:
    """The layers that a task's maps are of, most often one."""
    return ", ".join(dict.fromkeys(one.layer for one in results if one.layer is not None))


def _row(results: Sequence[Result]) -> Row:
    task = results[0].task
    sample, cut = task.shown, _cut(task)
    image = _image(task)
    tiles = [Tile(one.title, cut(one.maps[sample, 0]), one.signed) for one in results]
    mask = cut(task.masks[sample, 0].numpy())
    return Row(task.title, cut(image), mask, tiles, note=task.question, sides=task.sides)


def _image(task: Task) -> NDArray[np.float32]:
    if task.raw_input is not None:
        return task.raw_input[task.shown, 0].numpy()
    # Interpolation went below the air's 0, which would then be a dark grey.
    return load_head().volume.clip(min=0)


def _table(grouped: Sequence[Sequence[Result]]) -> ScoreTable:
    first = grouped[0]
    rows = [
        (one.title, [group[n].means[metric] for group in grouped for metric in METRICS])
        for n, one in enumerate(first)
    ]
    chance = [group[0].means["chance"] for group in grouped for _ in METRICS]
    notes = [*textwrap.wrap(READING, 172), _counted(grouped)]
    titles = [group[0].task.title for group in grouped]
    return ScoreTable(titles, list(METRICS.values()), rows, ("By chance", chance), notes)


def _counted(grouped: Sequence[Sequence[Result]]) -> str:
    counts = ", ".join(str(len(group[0].task.samples)) for group in grouped)
    at = ", ".join(layers(group) for group in grouped)
    return f"Means over {counts} images; the figure shows one of each. Layers: {at}."


def _cut(task: Task) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """How to cut the grid of a task to a picture, a head as radiologists look at it."""
    masks = task.masks.numpy()[:, 0]
    if masks.ndim == 3:
        return lambda values: values
    import nibabel.orientations as orientations

    turn = orientations.ornt_transform(
        orientations.io_orientation(load_head().affine), orientations.axcodes2ornt("LPS")
    )
    turned = orientations.apply_orientation(masks[0], turn)
    middle = int(turned.sum((0, 1)).argmax())
    return lambda values: np.asarray(orientations.apply_orientation(values, turn)[:, :, middle].T)
