"""Results of the demo: maps and scores of the paper's four methods on each task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medcam import methods
from medcam.demo.assets import load_head
from medcam.demo.tasks import DemoTask, load_tasks
from medcam.evaluation import compute_score
from medcam.files import save_nifti
from medcam.injection.injecting import inject
from medcam.maps import resample

PAPER_METHODS = ("gbp", "gcam", "ggcam", "gcampp")
"""The four methods of the M3d-CAM paper, in the order of its tables."""

METRICS = {"wioa": "WIoA", "relevance_mass": "Mass", "pointing_game": "Pointing"}
"""The metrics of the tables, with their column titles."""

HOW_TO_READ = (
    "Shares of a map inside the ground truth. WIoA: of the values above Otsu's threshold. Mass: of "
    "all values. Pointing: the share of images whose maximum is inside. By chance: the expected "
    "score of a random map, which is the ground truth's share of the image."
)
"""The explanation of the metrics, shown with the tables."""


@dataclass(frozen=True)
class MethodResult:
    """The maps and scores of one method on all samples of one task.

    Attributes:
        task: The task.
        method: The name of the method.
        layer: The layer; None for methods without one.
        target: The explained target, in words.
        maps: The raw maps, ``[batch, 1, *grid]``.
        scores: The scores of each sample by metric of `METRICS`, ``[batch]`` each.
        chance: The expected score of a random map for each sample, ``[batch]``.
        predicted: The predicted segmentation, ``[batch, *grid]``; None for a classification.
    """

    task: DemoTask
    method: str
    layer: str | None
    target: str
    maps: NDArray[np.float32]
    scores: dict[str, NDArray[np.float64]]
    chance: NDArray[np.float64]
    predicted: NDArray[np.bool_] | None

    @property
    def title(self) -> str:
        """The display name of the method."""
        return methods.get(self.method).title

    @property
    def signed(self) -> bool:
        """Whether negative values of the maps are evidence against the target."""
        return methods.get(self.method).signed

    @property
    def means(self) -> dict[str, float]:
        """The batch mean of each metric, and of ``"chance"``."""
        columns = {**self.scores, "chance": self.chance}
        return {name: float(values.mean()) for name, values in columns.items()}


def run_tasks(output: Path) -> Iterator[MethodResult]:
    """Run each network under each method with `medcam.inject`; save the maps and scores.

    Args:
        output: The folder. ``{task}/{method}/...`` holds the maps and ``scores.xlsx``.

    Yields:
        One result at a time: all methods of a task, task by task.
    """
    for task in load_tasks():
        for method in PAPER_METHODS:
            model = inject(
                task.load(),
                output_dir=output / task.name / method,
                backend=method,
                save_maps=True,
                save_scores=True,
                evaluate=True,
                normalize=False,
                **task.options,
            )
            logits = model(task.inputs, task.masks, raw_input=task.raw_input)
            model.dump()
            yield _result(task, method, model, logits)
        if task.raw_input is None:
            head = load_head()
            save_nifti(output / task.name / "image.nii.gz", head.volume, head.path)


def group_by_task(results: Sequence[MethodResult]) -> list[list[MethodResult]]:
    """Group the results by task, in their order."""
    groups: dict[int, list[MethodResult]] = {}
    for result in results:
        groups.setdefault(id(result.task), []).append(result)
    return list(groups.values())


def layer_names(results: Sequence[MethodResult]) -> str:
    """Return the layers of a task's maps, joined by commas; usually it is one."""
    return ", ".join(dict.fromkeys(result.layer for result in results if result.layer is not None))


def _result(task: DemoTask, method: str, model: Any, logits: Tensor) -> MethodResult:
    maps = model.get_attention_map()
    masks = task.masks.numpy()
    pairs = list(zip(maps[:, 0], masks[:, 0], strict=True))
    scores = {
        metric: np.array([compute_score(map_, mask, metric) for map_, mask in pairs])
        for metric in METRICS
    }
    explanation = model.get_explanation()
    chance = masks.reshape(len(masks), -1).mean(1)
    predicted = _predicted_mask(logits.detach(), maps.shape[2:])
    target = str(explanation.target)
    return MethodResult(task, method, explanation.layer, target, maps, scores, chance, predicted)


def _predicted_mask(logits: Tensor, grid: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return where the logit of a segmentation is above 0, on the grid of its maps."""
    if logits.ndim == 2:
        return None
    return (resample(logits, grid)[:, 0] > 0).numpy()
