"""The main job on the packaged data: four methods, two tasks, maps, scores and a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from medcam import methods
from medcam.demo.assets import (
    load_brain_segmenter,
    load_head,
    load_lesion_classifier,
    load_lesion_slices,
)
from medcam.evaluation import compute_score
from medcam.files import save_nifti, write_atomically
from medcam.inject import inject
from medcam.views.gallery import Row, Tile, gallery

BACKENDS = ("gbp", "gcam", "ggcam", "gcampp")
"""The paper's four methods, in the order of its tables."""

SHOWN = ("wioa", "relevance_mass", "pointing_game")
"""The metrics of the table."""

TITLES = ("WIoA", "mass", "pointing", "by chance")
"""The titles of its columns."""


@dataclass(frozen=True)
class Task:
    """A trained network, its input and the truth.

    Attributes:
        name: The folder's name.
        title: In words.
        load: Loads the network.
        inputs: What the network takes, ``[batch, 1, *space]``.
        masks: The truth on the grid of the maps, ``[batch, 1, *grid]``.
        options: What `medcam.inject` is given beside the backend.
        raw_input: What 2D maps are drawn on.
    """

    name: str
    title: str
    load: Callable[[], nn.Module]
    inputs: Tensor
    masks: Tensor
    options: dict[str, Any]
    raw_input: Tensor | None = None


@dataclass(frozen=True)
class Result:
    """What one method gave for one task.

    Attributes:
        task: The task.
        method: The backend's name.
        layer: The layer that was chosen; "" for methods without one.
        maps: ``[batch, 1, *grid]``, raw.
        scores: The mean of each metric over the batch.
        chance: What each of these metrics is for a random map, the mask's mean share of the image.
    """

    task: Task
    method: str
    layer: str
    maps: NDArray[np.float32]
    scores: dict[str, float]
    chance: float


def tasks() -> list[Task]:
    """The two tasks of the demonstration."""
    import torch

    head = load_head()
    slices = load_lesion_slices()
    present = slices.labels == 1
    return [
        Task(
            "lesion_2d",
            "2D classification\nis there a lesion?",
            load_lesion_classifier,
            slices.images[present],
            slices.masks[present],
            {"label": 1},
            raw_input=slices.images[present],
        ),
        Task(
            "brain_3d",
            "3D segmentation\nwhere is the brain?",
            load_brain_segmenter,
            head.image,
            torch.from_numpy(head.mask)[None, None],
            # "auto" takes decoder3: right, but its transposed convolution leaves a checkerboard
            {"layer": "decoder1", "data_shape": head.volume.shape, "reference": head.path},
        ),
    ]


def run(output: Path) -> Iterator[Result]:
    """Injects each network with the one line under each method, and saves what it yields.

    Args:
        output: The folder: ``{task}/{method}/...`` holds the maps and ``scores.xlsx``.

    Yields:
        One result at a time, task by task.
    """
    for task in tasks():
        for backend in BACKENDS:
            model = inject(
                task.load(),
                output_dir=output / task.name / backend,
                backend=backend,
                save_maps=True,
                save_scores=True,
                evaluate=True,
                normalize=False,
                **task.options,
            )
            model(task.inputs, task.masks, raw_input=task.raw_input)
            model.dump()
            yield _result(task, backend, model)
        if task.name == "brain_3d":
            head = load_head()
            save_nifti(output / task.name / "image.nii.gz", head.volume, head.path)


def _result(task: Task, backend: str, model: Any) -> Result:
    maps = model.get_attention_map()
    masks = task.masks.numpy()
    pairs = list(zip(maps[:, 0], masks[:, 0], strict=True))
    scores = {
        name: float(np.nanmean([compute_score(m, truth, name) for m, truth in pairs]))
        for name in SHOWN
    }
    return Result(
        task, backend, model.get_explanation().layer or "", maps, scores, float(masks.mean())
    )


def figure(results: Sequence[Result], path: Path) -> Path:
    """Saves the gallery: each task's image with its four maps."""
    rows = []
    for task in {id(result.task): result.task for result in results}.values():
        of_task = [result for result in results if result.task is task]
        sample, cut = _view(task)
        grid = load_head().volume if task.raw_input is None else task.raw_input[sample, 0].numpy()
        tiles = [
            Tile(
                methods.get(result.method).title,
                cut(result.maps[sample, 0]),
                methods.get(result.method).signed,
                f"{result.scores['relevance_mass']:.0%} inside (by chance {result.chance:.0%})",
            )
            for result in of_task
        ]
        mask = cut(task.masks[sample, 0].numpy())
        rows.append(Row(task.title, cut(grid), mask, tiles))
    drawn = gallery(rows)
    return write_atomically(path, lambda temporary: drawn.savefig(temporary, dpi=150))


def _view(task: Task) -> tuple[int, Callable[[NDArray[Any]], NDArray[Any]]]:
    """Which sample to show, and how to cut its grid to a picture as radiologists look at it."""
    masks = task.masks.numpy()[:, 0]
    if masks.ndim == 3:
        largest = int(masks.reshape(len(masks), -1).sum(1).argmax())
        return largest, lambda values: values
    import nibabel.orientations as orientations

    head = load_head()
    turn = orientations.ornt_transform(
        orientations.io_orientation(head.affine), orientations.axcodes2ornt("LPS")
    )
    turned = orientations.apply_orientation(masks[0], turn)
    middle = int(turned.sum((0, 1)).argmax())
    return 0, lambda values: orientations.apply_orientation(values, turn)[:, :, middle].T
