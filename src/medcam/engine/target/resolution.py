"""From what users give as ``target=`` to scores: None, a word, a class, a callable, a target."""

from __future__ import annotations

import difflib
import logging
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float
from torch import Tensor

from medcam.engine.notices import Notices
from medcam.engine.target import scores
from medcam.engine.target.scores import TargetScores
from medcam.engine.target.targets import ClassTarget, best, classes
from medcam.errors import InputTypeError, TargetError

_log = logging.getLogger("medcam")

TargetLike = (
    None
    | SupportsIndex
    | str
    | Sequence[SupportsIndex]
    | np.ndarray
    | Tensor
    | ClassTarget
    | Callable[[Tensor], Tensor]
)
"""What ``target=`` takes."""


def resolve(
    target: TargetLike, logits: Float[Tensor, "batch *any"], notices: Notices
) -> TargetScores:
    """Applies a target to the output tensor of a model.

    Args:
        target: None, "best", "all", a class, one class per sample, a callable, or a target of
            this module (see `medcam.explain`).
        logits: ``[batch, classes]`` or ``[batch, classes, *space]``; a missing class axis is
            read as a single class.
        notices: Where warnings go.

    Raises:
        TargetError: The target does not fit the output.
    """
    if callable(target) and not isinstance(target, ClassTarget):
        result = scores.custom(target, logits, notices)
    else:
        if logits.ndim == 1:
            logits = logits[:, None]
        if logits.ndim > 2 and all(extent == 1 for extent in logits.shape[2:]):
            logits = logits.flatten(1)
        if logits.ndim == 3:
            raise TargetError(
                f"The output has shape {list(logits.shape)}, which is neither [batch, classes] nor "
                "[batch, classes, *space]: choose a tensor with output=, or pass a callable target."
            )
        result = _as_target(target).score(logits, notices)
    _log.info("explained: %s", result.target.description)
    return result


def check_target(target: TargetLike) -> TargetLike:
    """The target, if it can be one for some output.

    Raises:
        TargetError: It is a word that is not known.
        InputTypeError: It is of a kind that is no target.
    """
    if not callable(target) or isinstance(target, ClassTarget):
        _as_target(target)
    return target


def _as_target(target: TargetLike) -> ClassTarget:
    if isinstance(target, ClassTarget):
        return target
    if target is None:
        return ClassTarget("the prediction", scores.prediction)
    if isinstance(target, str):
        if target == "best":
            return best()
        if target == "all":
            return ClassTarget("every class", scores.every)
        near = difflib.get_close_matches(target, ("best", "all"), 1)
        raise TargetError(
            f"target={target!r} is not known: pass None, 'best', 'all', a class number, one class "
            "per sample, a callable, or one of medcam.targets."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    if isinstance(target, Tensor) and target.ndim == 0 and not target.is_floating_point():
        target = int(target)
    if isinstance(target, int) and not isinstance(target, bool):
        return classes(target)
    if isinstance(target, Tensor) and target.ndim == 1 and not target.is_floating_point():
        target = target.tolist()
    if hasattr(target, "tolist"):
        target = target.tolist()
        if isinstance(target, int):
            return classes(target)
    if isinstance(target, (list, tuple)) and all(_is_whole(k) for k in target):
        per_sample = [operator.index(k) for k in target]
        return ClassTarget(
            "one class per sample",
            partial(_per_sample, labels=per_sample),
        )
    raise InputTypeError(
        f"target={scores.what(target)} is not a target: pass None, 'best', 'all', a class number, "
        "one class per sample (integers), a callable, or one of medcam.targets."
    )


def _per_sample(logits: Tensor, notices: Notices, labels: Sequence[int]) -> TargetScores:
    return scores.per_sample(logits, labels, notices)


def _is_whole(k: Any) -> bool:
    """Whether something is an integer of any kind, but no boolean."""
    if isinstance(k, (bool, np.bool_)) or not hasattr(k, "__index__"):
        return False
    return not isinstance(k, Tensor) or (k.numel() == 1 and not k.is_floating_point())
