"""The main job on the packaged data: each network under the paper's four methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medcam import methods
from medcam.demo.assets import load_head
from medcam.demo.tasks import Task, tasks
from medcam.evaluation import compute_score
from medcam.files import save_nifti
from medcam.injection.injecting import inject
from medcam.maps import resample

BACKENDS = ("gbp", "gcam", "ggcam", "gcampp")
"""The paper's four methods, in the order of its tables."""

METRICS = {"wioa": "WIoA", "relevance_mass": "Mass", "pointing_game": "Pointing"}
"""The metrics of the tables, and their titles."""

READING = (
    "Shares of a map inside the ground truth. WIoA: of what is above Otsu's threshold; mass: of "
    "all; pointing: how often the maximum is inside. By chance: what a map without any knowledge "
    "reaches, the ground truth's share of the image."
)
"""How to read the tables."""


@dataclass(frozen=True)
class Result:
    """What one method gave for one task.

    Attributes:
        task: The task.
        method: The backend's name.
        layer: The layer; None for methods without one.
        target: What was explained, in medcam's words.
        maps: ``[batch, 1, *grid]``, raw.
        scores: Each metric of `METRICS` for each sample, ``[batch]``.
        chance: What each of these metrics is for a random map, for each sample ``[batch]``.
        predicted: What a segmentation predicts, ``[batch, *grid]``; None for a classification.
    """

    task: Task
    method: str
    layer: str | None
    target: str
    maps: NDArray[np.float32]
    scores: dict[str, NDArray[np.float64]]
    chance: NDArray[np.float64]
    predicted: NDArray[np.bool_] | None

    @property
    def title(self) -> str:
        """The method, as it is shown."""
        return methods.get(self.method).title

    @property
    def signed(self) -> bool:
        """Whether negative values of the map mean something."""
        return methods.get(self.method).signed

    @property
    def means(self) -> dict[str, float]:
        """The mean of each metric over the batch, and of ``"chance"``."""
        every = {**self.scores, "chance": self.chance}
        return {name: float(values.mean()) for name, values in every.items()}


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
            logits = model(task.inputs, task.masks, raw_input=task.raw_input)
            model.dump()
            yield _result(task, backend, model, logits)
        if task.raw_input is None:
            head = load_head()
            save_nifti(output / task.name / "image.nii.gz", head.volume, head.path)


def _result(task: Task, backend: str, model: Any, logits: Tensor) -> Result:
    maps = model.get_attention_map()
    masks = task.masks.numpy()
    pairs = list(zip(maps[:, 0], masks[:, 0], strict=True))
    scores = {
        name: np.array([compute_score(m, truth, name) for m, truth in pairs]) for name in METRICS
    }
    explanation = model.get_explanation()
    chance = masks.reshape(len(masks), -1).mean(1)
    predicted = _predicted(logits.detach(), maps.shape[2:])
    target = str(explanation.target)
    return Result(task, backend, explanation.layer, target, maps, scores, chance, predicted)


def _predicted(logits: Tensor, grid: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Where the logit of a segmentation is above 0, on the grid of its maps."""
    if logits.ndim == 2:
        return None
    return (resample(logits, grid)[:, 0] > 0).numpy()
