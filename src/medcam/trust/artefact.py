"""A planted artefact: which methods find a marker that a network has learnt to look at.

A copy of the user's network is taught that images with a marker are of one class, and the same
images without it of another. The marker is then the only reason for its prediction, so the truth is
known (Adebayo et al. 2022, "Post hoc explanations may be ineffective for detecting unknown spurious
correlation"; Sun, Koch and Baumgartner, MICCAI 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medcam.engine.target.resolution import TargetLike
from medcam.engine.target.scores import two_class_logits
from medcam.errors import InputError
from medcam.evaluation.ranking import auroc
from medcam.trust.copies import copy_of
from medcam.trust.question import Question
from medcam.trust.subject import MapName, Maps, WholeImages

Run = Callable[[WholeImages, TargetLike], Maps]
"""Makes the maps of all methods."""

STEPS = 200
"""The most steps in which the copy learns the marker, at each rate."""

_RATES = (1e-3, 1e-4)
"""The learning rates that are tried, each from the user's own weights."""

_LEARNT = 0.2
_FOUND = 0.9
_MORE = 0.1
_SIDE = 8
"""The marker's side is this part of the shortest axis, or a layer's cell if that is more."""


@dataclass(frozen=True)
class MarkerVerdict:
    """Whether a map finds the marker.

    Attributes:
        word: The verdict.
        area: The area under the ROC curve of the map for the marker's voxels: 1 if all of these
            have higher values than all others, 0.5 by chance.
        before: The same of the network that never learnt the marker.
    """

    word: Literal["finds the marker", "misses the marker", "marks it in any case"]
    area: float
    before: float

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return (
            f"The map {self.word} (area under the curve {self.area:.2f}, and {self.before:.2f} "
            "with the network that did not learn the marker)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the values, for JSON."""
        return {
            "verdict": self.word, "area": round(self.area, 4), "before": round(self.before, 4),
            "sentence": self.sentence,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class PlantedArtefact:
    """What methods make of a marker that a copy of the network has learnt.

    Attributes:
        maps: The verdicts by method and layer; empty if the marker was not learnt.
        accuracy: The share of the images with and without the marker that the copy tells apart.
        steps: The number of steps that it was taught.
        side: The side of the marker in voxels.
    """

    maps: Mapping[MapName, MarkerVerdict]
    accuracy: float
    steps: int
    side: int

    def __str__(self) -> str:
        if not self.maps:
            return (
                f"The network did not learn the planted marker in {self.steps} steps (accuracy "
                f"{self.accuracy:.0%}), so nothing can be said about maps of it."
            )
        lines = [
            f"{method} ({layer or 'input'}) {verdict.word} ({verdict.area:.2f})"
            for (method, layer), verdict in self.maps.items()
        ]
        return "\n".join(["Planted marker:", *lines])

    def to_dict(self) -> dict[str, Any]:
        """Return the values, for JSON."""
        return {
            "accuracy": round(self.accuracy, 4),
            "steps": self.steps,
            "side": self.side,
            "maps": [
                {"method": method, "layer": layer, **verdict.to_dict()}
                for (method, layer), verdict in self.maps.items()
            ],
        }


def check_question(question: Question) -> None:
    """Raise unless the question is of classes, which a marker can stand for.

    Raises:
        InputError: The task is no classification, or there is one class only.
    """
    if question.task != "classification" or question.other is None or callable(question.target):
        raise InputError(
            "artefact=True needs a classification and a class as the target: in a segmentation the "
            "prediction itself says where the network looks."
        )


def plant(
    subject: WholeImages,
    question: Question,
    run: Run,
    cells: Sequence[Sequence[float]],
    *,
    seed: int,
) -> PlantedArtefact:
    """Teach a copy of the network a marker, and see which maps find it.

    Args:
        subject: The network and its images.
        question: What is asked; a classification.
        run: Function of a subject and a target that returns the `Maps` of all methods.
        cells: The cells of the layers, in voxels.
        seed: Of the marker's place.

    """
    images = subject.images
    where = marker_place(tuple(images.shape[2:]), cells, seed=seed)
    marked = subject.with_images(with_marker(images, where))
    labels, others = torch.as_tensor(question.target), torch.as_tensor(question.other)
    steps = 0
    for rate in _RATES:
        twin = copy_of(subject.model, "which artefact=True needs")
        accuracy, taken = _teach(twin, subject, marked, labels, others, rate)
        steps += taken
        if accuracy == 1:
            break
    side = round(float(where.sum()) ** (1 / where.ndim))
    if accuracy < 1:
        return PlantedArtefact({}, accuracy, steps, side)
    after: Maps = run(marked.with_model(twin), question.target)
    before: Maps = run(marked, question.target)
    verdicts = {
        name: _verdict(values, before.values[name], where.numpy())
        for name, values in after.values.items()
    }
    return PlantedArtefact(verdicts, accuracy, steps, side)


def marker_place(
    space: Sequence[int], cells: Sequence[Sequence[float]], *, seed: int = 0
) -> Bool[Tensor, "*space"]:
    """Return where the marker lies: a box at a corner, off the border by half its side.

    Example:
        >>> marker_place((32, 32), []).sum().item()
        16
    """
    rng = np.random.default_rng(seed)
    mask = torch.zeros(tuple(space), dtype=torch.bool)
    side = max(2, min(space) // _SIDE, *(round(max(cell)) for cell in cells), 0)
    index = []
    for n in space:
        own = min(side, max(1, n // 2))
        gap = min(own // 2, n - own)
        start = gap if rng.random() < 0.5 else n - own - gap
        index.append(slice(start, start + own))
    mask[tuple(index)] = True
    return mask


def with_marker(
    images: Float[Tensor, "batch channels *space"], where: Bool[Tensor, "*space"]
) -> Float[Tensor, "batch channels *space"]:
    """Return images with a chequered box of each channel's lowest and highest value."""
    axes = tuple(range(2, images.ndim))
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    grid = torch.meshgrid(*(torch.arange(n) // 2 for n in where.shape), indexing="ij")
    bright = (torch.stack(grid).sum(0) % 2 == 0).to(images.device)
    return torch.where(where.to(images.device), torch.where(bright, high, low), images)


def _teach(
    twin: nn.Module,
    plain: WholeImages,
    marked: WholeImages,
    labels: Tensor,
    others: Tensor,
    rate: float,
) -> tuple[float, int]:
    """Train the copy until it tells images with the marker from those without.

    It stays in evaluation mode, so that the statistics of norms are those of the images.

    Returns:
        The share of images that it tells apart, and the number of steps.
    """
    device = plain.images.device
    labels, others = labels.to(device)[:, None], others.to(device)[:, None]
    trained = [p.requires_grad_() for p in twin.parameters() if p.is_floating_point()]
    optimiser = torch.optim.Adam(trained, rate)

    def margins() -> Tensor:
        """Return by how much the right one of the two classes is ahead, for all images."""
        parts = []
        for subject, sign in ((marked, 1), (plain, -1)):
            logits = two_class_logits(subject.with_model(twin).logits_with_graph().flatten(1))
            parts.append(sign * (logits.gather(1, labels) - logits.gather(1, others))[:, 0])
        return torch.cat(parts)

    accuracy = 0.0
    for step in range(STEPS):
        with torch.enable_grad():
            ahead = margins()
            loss = nn.functional.softplus(-ahead).mean()
        accuracy = float((ahead > 0).float().mean())
        if accuracy == 1 and float(loss.detach()) < _LEARNT:
            return accuracy, step
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
    return accuracy, STEPS


def _verdict(
    after: Float[np.ndarray, "batch *space"],
    before: Float[np.ndarray, "batch *space"],
    where: Bool[np.ndarray, "*space"],
) -> MarkerVerdict:
    areas = [float(np.mean([auroc(values, where) for values in maps])) for maps in (after, before)]
    if areas[0] < _FOUND:
        return MarkerVerdict("misses the marker", *areas)
    more = areas[0] >= areas[1] + _MORE
    return MarkerVerdict("finds the marker" if more else "marks it in any case", *areas)
