"""What is asked of each map: the target, another one to tell it from, and the score that falls."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from medcam import targets
from medcam.engine.notices import Notices
from medcam.engine.target.resolution import TargetLike, for_regions, reads_output, resolve
from medcam.engine.target.scores import TargetScores, two_class_logits
from medcam.errors import InputError, MedcamWarning, TargetError
from medcam.trust.blocks import to_numpy
from medcam.trust.parts import (
    OTHER_HALF,
    OTHER_STRUCTURE,
    common_class,
    largest_components,
    predicted_as,
    two_parts,
)

Parts = Literal["auto", "whole"]
"""What ``parts=`` takes: components of a segmented class, or the whole of it."""


@dataclass(frozen=True, eq=False)
class Question:
    """What the maps are asked.

    Attributes:
        text: The target in words.
        task: "classification" or "segmentation".
        target: The target, fixed for the images: it does not depend on the prediction any more.
        anywhere: The same class without its place, for comparisons with other images and networks.
        other: The target that the first one is told from; None if there is none.
        other_text: The other target in words, or why there is none.
        scores: For each target whose maps are tested for faithfulness, its function of the logits.
        masks: Where the target is, ``[batch, *space]``; None in a classification.
        mirrored: Whether the two targets' logits are each other's negative.
        label: In a segmentation, the class.
        regions: Whether the channels are regions that may overlap.
    """

    text: str
    task: Literal["classification", "segmentation"]
    target: TargetLike
    anywhere: TargetLike
    other: TargetLike | None
    other_text: str
    scores: Sequence[Callable[[Tensor], Float[np.ndarray, " batch"]]]
    masks: Sequence[Bool[np.ndarray, "batch *space"]] = ()
    mirrored: bool = False
    label: int | None = None
    regions: bool = False

    def predicted(self, logits: Tensor) -> Bool[np.ndarray, "batch *space"]:
        """Return where the class of a segmentation is predicted."""
        return predicted_as(two_class_logits(logits), self.label or 0, self.regions)


def question_of(
    logits: Float[Tensor, "batch classes *space"],
    target: TargetLike,
    *,
    against: TargetLike = None,
    parts: Parts = "auto",
    regions: bool = False,
) -> Question:
    """Return what is asked of the maps of these logits.

    Args:
        logits: The prediction.
        target: As in `medcam.explain`.
        against: The target to tell it from; None: the class with the next highest logit, or in a
            segmentation another component of the class.
        parts: Whether a class of a segmentation is checked by its largest components, or whole.
        regions: Whether the channels of a segmentation are regions that may overlap.

    Raises:
        InputError: Nothing is predicted that could be explained.
        TargetError: The target does not fit the output.
    """
    if parts not in ("auto", "whole"):
        raise InputError(f"parts={parts!r} is not known: choose 'auto' or 'whole'.")
    if callable(target) and reads_output(target):
        return _of_function(logits, target, against)
    if logits.ndim > 2 and any(extent > 1 for extent in logits.shape[2:]):
        return _of_segmentation(logits, target, against, parts, regions)
    return _of_classification(logits.flatten(1), target, against)


def _of_function(logits: Tensor, target: TargetLike, against: TargetLike) -> Question:
    """Return the question for a score that is a function of the output."""

    def score(values: Tensor) -> NDArray[Any]:
        return to_numpy(_resolved(target, values, regions=False).values[:, 0])

    task: Literal["classification", "segmentation"] = (
        "segmentation" if logits.ndim > 2 else "classification"
    )
    return Question(
        _resolved(target, logits, regions=False).target.description, task, target, target, against,
        "" if against is not None else "the target is a function: give another one as against=",
        [score],
    )  # fmt: skip


def _of_classification(logits: Tensor, target: TargetLike, against: TargetLike) -> Question:
    """Return the question for a class, told from the one with the next highest logit."""
    classes = two_class_logits(logits)
    scored = _resolved(target, logits, regions=False)
    labels = _labels(scored)
    if labels is None:
        raise TargetError(
            f"A check explains one class of each image; the target is {scored.target.description}."
        )
    if against is None:
        rest = classes.detach().clone()
        rest.scatter_(1, labels[:, None], -torch.inf)
        others = rest.argmax(1)
    else:
        of_against = _labels(_resolved(against, logits, regions=False))
        if of_against is None:
            raise TargetError("against= is one class of each image here, as target= is.")
        others = of_against
        same = (others == labels).nonzero()[:, 0].tolist()
        if same:
            raise TargetError(
                f"against= is the target itself in sample(s) {', '.join(map(str, same))}: name the "
                "class to tell it from."
            )

    def score(values: Tensor) -> NDArray[Any]:
        at = two_class_logits(values.flatten(1))
        return to_numpy(at.gather(1, labels.to(at.device)[:, None])[:, 0])

    listed = sorted(set(labels.tolist()))
    other_labels = sorted(set(others.tolist()))
    return Question(
        f"class {listed[0]}" if len(listed) == 1 else "the class of each image",
        "classification",
        labels.tolist(),
        labels.tolist(),
        others.tolist() if bool((others != labels).all()) else None,
        f"class {other_labels[0]}"
        if len(other_labels) == 1
        else "the class with the next highest logit",
        [score],
        mirrored=logits.shape[1] == 1,
    )


def _of_segmentation(
    logits: Tensor, target: TargetLike, against: TargetLike, parts: Parts, regions: bool
) -> Question:
    """Return the question for parts of a class, or for the region that a target names."""
    chosen: TargetLike = "best" if target is None else target
    if isinstance(chosen, str) and chosen == "best" and logits.shape[1] > 1:
        chosen = common_class(logits, regions)
    voxels, label, is_region = _linear(chosen, logits, regions)
    predicted = predicted_as(two_class_logits(logits), label, regions)
    is_part = is_region or bool((voxels != predicted).any())
    if not is_region:
        _require_voxels(predicted, label)
    if is_part:  # a region, a voxel, a whole channel: not the class as predicted
        masks, words = [voxels], OTHER_STRUCTURE
        rest = largest_components(predicted & ~voxels, 1)[0]
    elif parts == "whole":
        masks, rest, words = [voxels], np.zeros_like(voxels), ""
    else:
        first, rest, words = two_parts(predicted)
        masks = [first, rest]
    _require_voxels(masks[0], label)
    other: TargetLike | None = for_regions(against) if regions and against is not None else against
    other_text = "the target given as against="
    are_parts = False
    if other is None and rest.reshape(len(rest), -1).any(1).all():
        other, other_text = _region(rest, label), words
        are_parts = len(masks) > 1
    elif other is None:
        other_label = 0 if label else 1
        outside = ~(predicted | voxels)
        other = _region(outside, other_label) if outside.any() else None
        other_text = f"class {other_label} elsewhere" if other is not None else "nothing else"
    what = (
        "the given region"
        if is_part
        else "all that is predicted"
        if parts == "whole"
        else _PARTS_IN_WORDS[words == OTHER_HALF, are_parts]
    )
    tested = masks if are_parts else masks[:1]  # whose maps are those of target and other
    return Question(
        f"class {label}: {what}", "segmentation", _region(masks[0], label),
        targets.class_score(label) if logits.shape[1] > 1 else targets.class_score(0),
        other, other_text, [_mean_in(mask, label) for mask in tested], tested,
        label=label, regions=regions,
    )  # fmt: skip


_PARTS_IN_WORDS = {
    (False, True): "the largest structures, one by one",
    (False, False): "the largest structure",
    (True, True): "the halves of its only structure",
    (True, False): "one half of its only structure",
}
"""What is tested of a class, by whether there is one structure only, and whether two are tested."""


def _require_voxels(masks: NDArray[Any], label: int) -> None:
    """Raise if nothing of a class is there in a sample."""
    empty = [str(number) for number, mask in enumerate(masks) if not mask.any()]
    if empty:
        raise InputError(
            f"Class {label} is predicted nowhere in sample(s) {', '.join(empty)}: leave them out, "
            "or name a class that is predicted with target=."
        )


def _resolved(target: TargetLike, logits: Tensor, *, regions: bool) -> TargetScores:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedcamWarning)
        return resolve(target, logits, Notices(), axes=max(logits.ndim - 2, 1), regions=regions)


def _labels(scored: TargetScores) -> Tensor | None:
    """Return the one class of each sample."""
    classes = scored.target.classes
    return None if classes is None or classes.shape[1] != 1 else classes[:, 0].long()


def _linear(
    target: TargetLike, logits: Tensor, regions: bool
) -> tuple[Bool[np.ndarray, "batch *space"], int, bool]:
    """Return the voxels that the score is made of, the class, and whether the target is a region.

    Raises:
        TargetError: The score is made of several classes.
    """
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        scored = _resolved(target, leaf, regions=regions)
        if scored.values.shape[1] != 1:
            raise TargetError("A check explains one target at a time: name one class.")
        (grad,) = torch.autograd.grad(scored.values.sum(), leaf)
    labels = _labels(scored)
    used = grad.abs().flatten(2).sum((0, 2)).nonzero()[:, 0].tolist()
    if logits.shape[1] == 1:
        label = 1 if labels is None or bool(labels[0] == 1) else 0
        return (grad[:, 0] != 0).cpu().numpy(), label, scored.target.is_part
    if labels is not None and len(set(labels.tolist())) == 1:
        label = int(labels[0])
    elif len(used) == 1:
        label = used[0]
    else:
        raise TargetError(
            f"A check of a segmentation explains one class in all samples; the target is "
            f"{scored.target.description}: name one, e.g. target={used[0] if used else 1}."
        )
    return (grad[:, label] != 0).cpu().numpy(), label, scored.target.is_part


def _region(mask: NDArray[Any], label: int) -> TargetLike:
    return targets.region(torch.from_numpy(np.ascontiguousarray(mask)), label)


def _mean_in(mask: NDArray[Any], label: int) -> Callable[[Tensor], NDArray[Any]]:
    """Return the function of the logits that is their mean inside a mask, for each sample."""
    weights = torch.from_numpy(mask)

    def score(logits: Tensor) -> NDArray[Any]:
        values = two_class_logits(logits)[:, label].double()
        inside = weights.to(values.device)
        total = torch.where(inside, values, 0.0).flatten(1).sum(1)
        return to_numpy(total / inside.flatten(1).sum(1))

    return score
