"""A planted artefact: which methods find a marker that a network has learnt to look at.

A copy of the user's network is taught that images with a marker are of one class, and the same
images without it of another. The marker is then the only reason for its prediction, so the truth is
known (Adebayo et al. 2022, "Post hoc explanations may be ineffective for detecting unknown spurious
correlation"; Sun, Koch and Baumgartner, MICCAI 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medcam.engine.target.resolution import TargetLike
from medcam.engine.target.scores import two_class_logits
from medcam.errors import InputError
from medcam.methods.registry import title_of
from medcam.trust.copies import copy_of
from medcam.trust.marker import boxes_below, marker_place, share_in, with_marker
from medcam.trust.question import Question
from medcam.trust.subject import MapName, Maps, WholeImages

Run = Callable[[WholeImages, TargetLike], Maps]
"""Makes the maps of all methods."""

STEPS = 200
"""The most steps in which the copy learns the marker, at each rate."""

RATES = (1e-3, 1e-4)
"""The learning rates that are tried, each from the user's own weights."""

_LEARNT = 0.2

_BOXES = 0.9
"""A map finds the marker if its box has more of the map than this share of the other boxes."""

_MORE = 1.5
"""The box has to have this many times its share by chance, and its share before."""


@dataclass(frozen=True)
class MarkerVerdict:
    """Whether a map finds the marker.

    Attributes:
        word: The verdict.
        share: The share of the map that lies in the marker's box.
        chance: The box's share of the image, which is that of a map of one value.
        before: `share` with the network that never learnt the marker.
        boxes_below: The share of the other boxes of this size with less of the map; 0.5 by chance.
        is_constant: Whether the map has one value everywhere, in all images.
    """

    word: Literal["finds the marker", "misses the marker", "marks it in any case"]
    share: float
    chance: float
    before: float
    boxes_below: float
    is_constant: bool = False

    @property
    def text(self) -> str:
        """The verdict with its figures, which follows the name of a map."""
        if self.is_constant:
            return f"{self.word}: it has one value everywhere."
        others = f"{int(100 * self.boxes_below)}% of the other boxes of this size do"
        if self.boxes_below == 1:
            others = "any other box of this size"
        elif self.boxes_below == 0:
            return (
                f"{self.word}: its box holds {_percent(self.share)} of the map "
                f"({_percent(self.before)} before the network learnt it), less than any other box."
            )
        return (
            f"{self.word}: its box holds {_percent(self.share)} of the map "
            f"({_percent(self.before)} before the network learnt it), more than {others}."
        )

    @property
    def threshold(self) -> str:
        """What it takes to find the marker, in words."""
        return (
            f"The marker is {_percent(self.chance)} of the image. A map finds it if its box holds "
            f"more than {_BOXES:.0%} of the other boxes do, at least "
            f"{_percent(_MORE * self.chance)} of the map, and {_MORE} times what it held before."
        )

    @property
    def sentence(self) -> str:
        """The verdict in words, with its threshold."""
        return f"The map {self.text} {self.threshold}"

    def to_dict(self) -> dict[str, Any]:
        """Return the values, for JSON."""
        figures = ("share", "chance", "before", "boxes_below")
        return {
            "verdict": self.word,
            **{name: round(getattr(self, name), 4) for name in figures},
            "sentence": self.sentence,
        }


@dataclass(frozen=True, eq=False)
class PlantedArtefact:
    """What methods make of a marker that a copy of the network has learnt.

    Attributes:
        maps: The verdicts by method and layer; empty if the marker was not learnt.
        accuracy: The share of the images with and without the marker that the copy tells apart.
        steps: The number of steps that it was taught.
        side: The side of the marker in voxels.
        titles: The titles of methods that are not registered, by name.
    """

    maps: Mapping[MapName, MarkerVerdict]
    accuracy: float
    steps: int
    side: int
    titles: Mapping[str, str] = field(default_factory=dict)

    def title(self, method: str) -> str:
        """Return the title of a method by its name."""
        return self.titles.get(method, title_of(method))

    def __str__(self) -> str:
        if not self.maps:
            return (
                f"The network did not learn the planted marker in {self.steps} steps (accuracy "
                f"{self.accuracy:.0%}), so nothing can be said about maps of it."
            )
        lines = [
            f"{self.title(method)} ({layer or 'input'}) {verdict.text}"
            for (method, layer), verdict in self.maps.items()
        ]
        threshold = next(iter(self.maps.values())).threshold
        return "\n".join([f"Planted marker: {threshold}", *lines])

    def to_dict(self) -> dict[str, Any]:
        """Return the values, for JSON."""
        return {
            "accuracy": round(self.accuracy, 4),
            "steps": self.steps,
            "side": self.side,
            "maps": [
                {"method": method, "title": self.title(method), "layer": layer, **item.to_dict()}
                for (method, layer), item in self.maps.items()
            ],
        }


def check_question(question: Question, *, has_weights: bool = True) -> None:
    """Raise unless the question is of classes, which a marker can stand for.

    Args:
        question: What is asked.
        has_weights: Whether the network has weights that can be taught.

    Raises:
        InputError: The task is no classification, there is one class only, or nothing to teach.
    """
    if not has_weights:
        raise InputError(
            "artefact=True teaches a copy of the network a marker, but this model holds no weights."
        )
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
    titles: Mapping[str, str] | None = None,
) -> PlantedArtefact:
    """Teach a copy of the network a marker, and see which maps find it.

    Args:
        subject: The network and its images.
        question: What is asked; a classification.
        run: Function of a subject and a target that returns the `Maps` of all methods.
        cells: The cells of the layers, in voxels.
        seed: Of the marker's place.
        titles: The titles of methods that are not registered, by name.
    """
    images = subject.images
    where = marker_place(tuple(images.shape[2:]), cells, seed=seed)
    marked = subject.with_images(with_marker(images, where))
    labels, others = torch.as_tensor(question.target), torch.as_tensor(question.other)
    steps = 0
    for rate in RATES:
        twin = copy_of(subject.model, "which artefact=True needs")
        accuracy, taken = _teach(twin, subject, marked, labels, others, rate)
        steps += taken
        if accuracy == 1:
            break
    side = round(float(where.sum()) ** (1 / where.ndim))
    if accuracy < 1:
        return PlantedArtefact({}, accuracy, steps, side, titles or {})
    after: Maps = run(marked.with_model(twin), question.target)
    before: Maps = run(marked, question.target)
    verdicts = {
        name: verdict_of(values, before.values[name], where.numpy())
        for name, values in after.values.items()
    }
    return PlantedArtefact(verdicts, accuracy, steps, side, titles or {})


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


def verdict_of(
    after: Float[np.ndarray, "batch *space"],
    before: Float[np.ndarray, "batch *space"],
    where: Bool[np.ndarray, "*space"],
) -> MarkerVerdict:
    """Return what maps of the network that learnt the marker, and of the one before, say of it."""
    chance = float(where.mean())
    shares = [
        float(np.mean([share_in(values, where) for values in maps])) for maps in (after, before)
    ]
    below = float(np.mean([boxes_below(values, where) for values in after]))
    word: Literal["finds the marker", "misses the marker", "marks it in any case"]
    if below < _BOXES or shares[0] < _MORE * chance:
        word = "misses the marker"
    else:
        more = shares[0] >= _MORE * shares[1]
        word = "finds the marker" if more else "marks it in any case"
    constant = not np.ptp(after.reshape(len(after), -1), 1).any()
    return MarkerVerdict(word, shares[0], chance, shares[1], below, constant)


def _percent(share: float) -> str:
    """Return a share in percent, with a decimal below 10 %."""
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"
