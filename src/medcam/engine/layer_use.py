"""Whether a segmentation uses the layer that was chosen automatically; else another one.

The encoder's deepest features are a guess: skip connections lead around them, and a network may
have learned to do without. The layer is silenced (set to zero) in one more forward pass. Where the
prediction stays, the earlier layers that a skip connection leads from are tried, the deepest first.
The result is remembered for the model until its weights change.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medcam.engine.model import isolation
from medcam.engine.model.copies import version_of
from medcam.engine.model.nested import map_tensors
from medcam.engine.model.undo import ForwardHooks
from medcam.engine.target.scores import two_class_logits
from medcam.errors import warn

LARGEST_DICE = 0.9
LEAST_LOSS = 0.1
"""A layer is not used if the prediction without it has a larger Dice coefficient with the
prediction, or if the score falls by less: a layer without which it rises speaks against the target,
and positive evidence there says little."""

DICE_OF_CARRIER = 0.5
"""The Dice coefficient from which on the next layer is taken: it carries half of the prediction."""


@dataclass(frozen=True)
class LayerUse:
    """What is left of a prediction without a layer.

    Attributes:
        layer: The layer.
        dice: The Dice coefficient of the predictions with and without the layer, of the explained
            classes; None if both are empty.
        score: The score without the layer, as a share of the score with it.
    """

    layer: str
    dice: float | None
    score: float

    @property
    def is_used(self) -> bool:
        """Whether the prediction uses the layer."""
        if self.dice is None:  # nothing is predicted that could stay
            return True
        return self.dice <= LARGEST_DICE and self.score <= 1 - LEAST_LOSS

    @property
    def details(self) -> dict[str, Any]:
        """The values, for the record of an explanation."""
        dice = None if self.dice is None else round(self.dice, 4)
        return {"layer": self.layer, "dice_without": dice, "score_without": round(self.score, 4)}

    def __str__(self) -> str:
        dice = "" if self.dice is None else f"Dice coefficient {self.dice:.2f}, "
        return f"{self.layer!r} ({dice}score {self.score:.0%})"


@dataclass(frozen=True)
class CheckedLayer:
    """The layer of choice of a segmentation.

    Attributes:
        use: What is left of the prediction without it.
        passed_over: The same of layers before it that the prediction does not use.
        branches: Layers of other branches, with their share of the evidence.
    """

    use: LayerUse
    passed_over: tuple[LayerUse, ...] = ()
    branches: Mapping[str, float] = field(default_factory=dict)

    @property
    def details(self) -> dict[str, Any]:
        """The values, for the record of an explanation."""
        details: dict[str, Any] = {"automatic_layer": self.use.details}
        if self.passed_over:
            details["layers_passed_over"] = [use.details for use in self.passed_over]
        if self.branches:
            details["other_branches"] = dict(self.branches)
        return details

    def report(self) -> None:
        """Warn if the first choice was passed over, or if no layer is used."""
        if not self.use.is_used:
            warn(
                f"The prediction hardly uses layer {self.use}, which was chosen automatically, or "
                "only against the target: that much stays if the layer is set to zero. No earlier "
                "layer was found that it uses. Name a layer: medcam.get_layers(model)."
            )
        elif self.passed_over:
            listed = ", ".join(map(str, self.passed_over))
            warn(
                f"The prediction hardly uses layer {listed}, or only against the target: that much "
                f"stays if the layer is set to zero. Layer {self.use} was taken instead, as the "
                "deepest one that it uses."
            )


class OtherLayerError(Exception):
    """Raised to end a run whose layer is not the one to explain.

    Attributes:
        output: The model's output.
        choice: The layer to explain; None if it has to be found in a run of its own.
    """

    def __init__(self, output: Any, choice: CheckedLayer | None) -> None:
        super().__init__()
        self.output = output
        self.choice = choice


@dataclass(eq=False)
class Memory:
    """The checked layers of models, until their weights change."""

    _of_models: weakref.WeakKeyDictionary[nn.Module, tuple[int, dict[object, CheckedLayer]]] = (
        field(default_factory=weakref.WeakKeyDictionary)
    )

    def get(self, model: nn.Module, key: object) -> CheckedLayer | None:
        """Return what was found for a model's present weights."""
        weights, known = self._of_models.get(model, (None, {}))
        return known.get(key) if known and weights == _weights(model) else None

    def set(self, model: nn.Module, key: object, choice: CheckedLayer) -> None:
        """Remember a layer; what was found for other weights is forgotten."""
        weights, known = self._of_models.get(model, (None, {}))
        now = _weights(model)
        self._of_models[model] = now, {**(known if weights == now else {}), key: choice}

    def forget(self, model: nn.Module) -> None:
        """Forget what was found for a model."""
        self._of_models.pop(model, None)


MEMORY = Memory()
"""The checked layers of all models of this process."""


def _weights(model: nn.Module) -> int:
    """Return a number that changes with the weights and the statistics of norms.

    A few values are read on the CPU, since a change through ``.data`` leaves no other trace.
    """
    tensors = [*model.parameters(), *model.buffers()]
    state: list[object] = [(id(tensor), version_of(tensor)) for tensor in tensors]
    ends = [*tensors[:_MOST_READ], *tensors[-_MOST_READ:]]
    state += [
        (float(tensor.detach()[(0,) * tensor.ndim]), float(tensor.detach()[(-1,) * tensor.ndim]))
        for tensor in ends
        if tensor.device.type == "cpu" and tensor.numel()
    ]
    return hash(tuple(state))


_MOST_READ = 4
"""The number of tensors of which values are read, at the front and at the end of the model."""


@dataclass(frozen=True, eq=False)
class Examination:
    """What is needed to compare predictions with and without a layer.

    Attributes:
        model: The model.
        modules: Every module of it.
        run: Runs the model on the same inputs; returns the logits.
        logits: The logits, attached to the graph.
        scores: The scores ``[batch, targets]``.
        labels: The explained classes ``[batch, targets]``; None: every foreground class.
        regions: Whether the channels are regions that may overlap.
    """

    model: nn.Module
    modules: Sequence[nn.Module]
    run: Callable[[], Tensor]
    logits: Tensor
    scores: Tensor
    labels: Tensor | None
    regions: bool

    def choose(self, first: str, earlier: Iterable[str]) -> CheckedLayer:
        """Return the deepest layer that the prediction uses.

        Args:
            first: The first choice.
            earlier: The layers to try next, in this order.
        """
        weights = [
            torch.autograd.grad(column.sum(), self.logits, retain_graph=True)[0].detach()
            for column in self.scores.unbind(1)
        ]
        use = self._without(first, weights)
        if use.is_used:
            return CheckedLayer(use)
        tried = [use]
        for layer in earlier:
            tried.append(self._without(layer, weights))
            if tried[-1].is_used and (tried[-1].dice or 0.0) <= DICE_OF_CARRIER:
                break
        known = [item for item in tried[1:] if item.is_used]
        if not known:
            return CheckedLayer(use)
        best = min(known, key=lambda item: item.dice or 0.0)
        return CheckedLayer(best, tuple(item for item in tried if not item.is_used))

    def _without(self, layer: str, weights: Iterable[Tensor]) -> LayerUse:
        """Return what is left of the prediction if a layer's output is set to zero."""
        with silenced(self.model, self.modules, layer), torch.no_grad():
            other = self.run()
        logits = self.logits.detach()
        before, after = 0.0, 0.0
        for weight in weights:
            with_layer, without = ((z * weight).flatten(1).sum(1) for z in (logits, other))
            before += float(with_layer.abs().sum())
            after += float((without * with_layer.sign()).sum())
        return LayerUse(
            layer, _dice(logits, other, self.labels, regions=self.regions), after / (before or 1.0)
        )


@contextmanager
def silenced(model: nn.Module, modules: Sequence[nn.Module], layer: str) -> Iterator[None]:
    """Run with a layer that returns zeros; what the model stores is undone.

    Args:
        model: The model.
        modules: Every module of it.
        layer: The layer's name.
    """
    thread = threading.get_ident()

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if threading.get_ident() != thread:
            return None  # another thread predicts with the same model
        return map_tensors(
            output, lambda part: torch.zeros_like(part) if part.is_floating_point() else part
        )

    with isolation.kept_state(modules), ForwardHooks([(model.get_submodule(layer), hook)]):
        yield


def _dice(logits: Tensor, other: Tensor, labels: Tensor | None, *, regions: bool) -> float | None:
    """Return the Dice coefficient of two predictions, over all samples."""
    pairs: list[tuple[Tensor, Tensor]] = []
    if labels is None:
        pairs.append((_foreground(logits, regions), _foreground(other, regions)))
    for column in () if labels is None else labels.unbind(1):
        a, b = (_of_class(values, column, regions) for values in (logits, other))
        pairs.append((a, b))
    both = sum(float(((a == b) & (a > 0)).sum()) for a, b in pairs)
    sizes = sum(float((a > 0).sum() + (b > 0).sum()) for a, b in pairs)
    return 2 * both / sizes if sizes else None


def _foreground(logits: Tensor, regions: bool) -> Tensor:
    """Return the predicted classes, 0 for the background; of regions whether each is predicted."""
    if regions or logits.shape[1] == 1:
        return (logits > 0).long()
    return logits.argmax(1)


def _of_class(logits: Tensor, labels: Tensor, regions: bool) -> Tensor:
    """Return where each sample's class is predicted, as 0 and 1."""
    logits = two_class_logits(logits)
    rows = labels.to(logits.device)
    rows = rows if len(rows) == len(logits) else rows[:1]  # windows have the target of the volume
    label = rows.reshape(-1, *[1] * (logits.ndim - 2))
    if regions:
        index = label[:, None].expand(len(logits), 1, *logits.shape[2:])
        return (logits.gather(1, index)[:, 0] > 0).long()
    return (logits.argmax(1) == label).long()
