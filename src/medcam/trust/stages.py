"""The layers that a check compares: the last one of each stage of a network, and their use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from torch import Tensor, nn

from medcam.engine.layer_use import DICE_OF_CARRIER, LARGEST_DICE, LEAST_LOSS, silenced
from medcam.engine.model import isolation
from medcam.engine.model.layers import get_layers
from medcam.engine.model.nested import tensors
from medcam.engine.model.undo import ForwardHooks
from medcam.engine.target.scores import two_class_logits
from medcam.trust.question import Question
from medcam.trust.statistics import plain_number
from medcam.trust.subject import Subject

_MOST_STAGES = 8


@dataclass(frozen=True)
class LayerShare:
    """What is left of a prediction if a layer is set to zero.

    Attributes:
        layer: The layer.
        score: The score without the layer, as a share of the score with it.
        dice: In a segmentation, the Dice coefficient of the two predictions of the class.
    """

    layer: str
    score: float
    dice: float | None

    @property
    def is_used(self) -> bool:
        """Whether the prediction uses the layer, as `medcam.engine.layer_use` has it.

        One that carries half of a segmentation is used also if the score rises without it.
        """
        falls = self.score <= 1 - LEAST_LOSS
        if self.dice is None:
            return falls
        return self.dice <= DICE_OF_CARRIER or (falls and self.dice <= LARGEST_DICE)

    def __str__(self) -> str:
        return f"{self.layer} set to zero: {self._left}{self._unused}"

    @property
    def sentence(self) -> str:
        """What is left, in a sentence."""
        return f"With {self.layer} set to zero {self._left}{self._unused}."

    @property
    def _left(self) -> str:
        dice = ""
        if self.dice is not None:
            dice = f", and the Dice coefficient with the prediction is {self.dice:.2f}"
        return f"{score_left(self.score)}{dice}"

    @property
    def _unused(self) -> str:
        """Why the layer counts as hardly used: the prediction stays, or its score does."""
        if self.is_used:
            return ""
        if self.score > 1 + LEAST_LOSS and not (self.dice and self.dice > LARGEST_DICE):
            return (
                ": the layer speaks against the target, so the prediction hardly uses it for that"
            )
        if self.dice is not None and self.dice > LARGEST_DICE:
            return ": the prediction stays nearly the same, so it hardly uses this layer"
        return ": the score stays nearly the same, so the prediction hardly uses this layer"

    def to_dict(self) -> dict[str, Any]:
        """Return the values, for JSON."""
        return {
            "layer": self.layer, "score_without": plain_number(self.score),
            "dice_without": plain_number(self.dice),
            "is_used": self.is_used, "sentence": self.sentence,
        }  # fmt: skip


def score_left(share: float) -> str:
    """Return in words what is left of a score.

    Example:
        >>> score_left(0.25), score_left(-0.1), score_left(1.14)
        ('25% of the score is left', 'nothing of the score is left', 'the score even rises to 114%')
    """
    if share <= 0:
        return "nothing of the score is left"
    return (
        f"{share:.0%} of the score is left"
        if share < 1.005
        else f"the score even rises to {share:.0%}"
    )


def stages_of(subject: Subject) -> list[str]:
    """Return the last layer of each stage in the order in which they run.

    A stage is a series of layers of the same extents. The logits themselves are no layer to
    compare: their map repeats the prediction.
    """
    modules = dict(subject.model.named_modules())
    seen: list[tuple[str, int, tuple[int, ...]]] = []
    of_output: list[tuple[int, ...]] = []  # not empty after the first window
    images = subject.images
    rank = images.ndim

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if of_output or not isinstance(output, Tensor):
                return
            if output.is_floating_point() and output.ndim == rank:
                seen.append((name, output.shape[1], tuple(output.shape[2:])))

        return hook

    def end(module: nn.Module, inputs: Any, output: Any) -> None:
        of_output.extend(tuple(part.shape[2:]) for _, part in tensors(output))

    pairs = [(modules[name], hook_for(name)) for name in get_layers(subject.model)]
    with (
        isolation.kept_state(isolation.modules_of(subject.model)),
        ForwardHooks([*pairs, (subject.model, end)]),
    ):
        classes = subject.logits().shape[1]
    layers = []
    for space, run in groupby(seen, key=lambda item: item[2]):
        of_features = [
            name for name, channels, _ in run if channels > classes or space not in of_output
        ]
        if (
            of_features
            and max(space) > 1
            and all(n <= m for n, m in zip(space, images.shape[2:], strict=True))
        ):
            layers.append(of_features[-1])
    layers = list(dict.fromkeys(layers))
    if len(layers) > _MOST_STAGES:
        kept = np.linspace(0, len(layers) - 1, _MOST_STAGES).round().astype(int)
        layers = [layers[index] for index in dict.fromkeys(kept.tolist())]
    return layers


def shares_of(
    subject: Subject, question: Question, layers: Sequence[str], before: Tensor
) -> list[LayerShare]:
    """Return what is left of the prediction without each layer.

    Args:
        subject: The network and its images.
        question: What is asked.
        layers: The layers.
        before: The logits with all layers.
    """
    modules = isolation.modules_of(subject.model)
    shares = []
    for layer in layers:
        with silenced(subject.model, modules, layer):
            after = subject.logits(question.target)
        shares.append(_share(layer, question, before, after))
    return shares


def _share(layer: str, question: Question, before: Tensor, after: Tensor) -> LayerShare:
    """Return what is left; of classes that exclude each other, relative to their mean."""
    dice = None
    if question.label is not None:
        predictions = [question.predicted(logits) for logits in (before, after)]
        both = float((predictions[0] & predictions[1]).sum())
        size = float(predictions[0].sum() + predictions[1].sum())
        dice = 2 * both / size if size else None
    elif question.task == "classification" and not callable(question.target):
        before, after = (two_class_logits(z.flatten(1)) for z in (before, after))
        before, after = (z - z.mean(1, keepdim=True) for z in (before, after))
    with_layer, without = (
        np.concatenate([score(logits) for score in question.scores]) for logits in (before, after)
    )
    share = float((without * np.sign(with_layer)).sum() / (np.abs(with_layer).sum() or 1.0))
    return LayerShare(layer, share, dice)
