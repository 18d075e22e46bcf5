"""A target fixed on the model's output, so that it scores outputs of changed images.

Classes and voxels are chosen once, on the output of the image as it is. The score is then the same
function for every changed image: linear in the logits, with the weights ``∂y/∂z``, for a class or a
target of `medcam.targets`; a user's function of the output otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.engine.model.probabilities import SIGMOIDS
from medcam.engine.notices import SilentNotices
from medcam.engine.prepare import Prepared
from medcam.engine.target import resolution
from medcam.engine.target.resolution import TargetLike
from medcam.engine.target.scores import TargetScores, at_least_float32
from medcam.engine.target.targets import ClassTarget
from medcam.errors import NoMapError, TargetError
from medcam.maps import ResolvedTarget


@dataclass(frozen=True, eq=False)
class FixedTarget:
    """The score of a sample as a function of its logits.

    Attributes:
        target: The resolved target.
        values: The scores of the images as they are, ``[batch, targets]``.
        logits: Their logits, without a graph.
        channels: For each target, the channels of the logits that its score depends on; empty for
            a score that is no linear function.
        weights: For each target, the weights of these logits, ``[batch, channels, *space]``.
        function: A score that is no linear function, ``[batch, targets]`` of all samples' logits.
        is_alike: Whether the function treats all samples alike.
    """

    target: ResolvedTarget
    values: Float[Tensor, "batch targets"]
    logits: Tensor
    channels: tuple[Tensor, ...] = ()
    weights: tuple[Tensor, ...] = ()
    function: Callable[[Tensor], Tensor] | None = None
    is_alike: bool = False

    def score(self, logits: Tensor, sample: int) -> Float[Tensor, "images targets"]:
        """Return the scores of changed images of one sample, attached to the graph.

        A user's function that treats samples differently (a class for each) is given the logits of
        the whole batch with those of this sample replaced.

        Args:
            logits: The logits of the changed images, ``[images, classes, ...]``.
            sample: The number of the sample.
        """
        if self.function is not None:
            return self._by_function(self.function, logits, sample)
        columns = []
        for channels, weights in zip(self.channels, self.weights, strict=True):
            used = logits if logits.ndim < 2 else logits[:, channels]
            dtype = torch.promote_types(used.dtype, weights.dtype)
            terms = used.to(dtype) * weights[sample].to(dtype)
            columns.append(terms.reshape(len(logits), -1).sum(1))
        return torch.stack(columns, 1)

    def _by_function(
        self, function: Callable[[Tensor], Tensor], logits: Tensor, sample: int
    ) -> Float[Tensor, "images targets"]:
        """Return the scores by a user's function."""
        if self.is_alike:
            values = _of_rows(function, logits)
            if values is not None:
                return values
        rows = []
        for row in logits.unbind(0):
            whole = self.logits.to(row)
            whole = torch.cat([whole[:sample], row[None], whole[sample + 1 :]])
            rows.append(function(whole)[sample])
        return torch.stack(rows)


def fix_target(
    prepared: Prepared, scores: TargetScores, logits: Tensor | None, function: str
) -> FixedTarget:
    """Return the target of a call, fixed on its output.

    Args:
        prepared: The call.
        scores: The resolved target.
        logits: The explained logits; None for detections.
        function: The softmax or sigmoid that the model ends in, if its logits are explained.

    Raises:
        NoMapError: A detection is explained, or the score does not depend on the logits.
    """
    if logits is None:
        raise NoMapError(
            "Which box is explained cannot be followed through changed images, in which a detector "
            "finds other boxes: take a method that runs the model once, such as gcam, or give "
            "output= and a target that is a function of the raw scores."
        )
    request = prepared.request
    leaf = at_least_float32(logits.detach()).detach().requires_grad_()

    def score(values: Tensor) -> Tensor:
        return resolution.resolve(
            request.target, values, SilentNotices(), axes=prepared.image.ndim - 2,
            regions=function in SIGMOIDS and not request.is_window,
        ).values  # fmt: skip

    with torch.enable_grad():
        values = score(leaf)
        if not values.requires_grad:
            raise NoMapError(
                "The target's score does not depend on the logits: a callable has to return "
                "scores computed from them, or a boolean mask."
            )
        count = values.shape[1]
        grads = [
            torch.autograd.grad(column.sum(), leaf, retain_graph=number + 1 < count)[0]
            for number, column in enumerate(values.unbind(1))
        ]
    values, plain = values.detach(), leaf.detach()
    if is_function(request.target, plain):
        is_alike = _treats_alike(score, plain, values)
        return FixedTarget(scores.target, values, plain, function=score, is_alike=is_alike)
    return FixedTarget(scores.target, values, plain, *_linear(grads))


def is_function(target: TargetLike, logits: Tensor) -> bool:
    """Return whether a target is a user's function that returns scores, not a mask."""
    if not callable(target) or isinstance(target, ClassTarget):
        return False
    result = target(logits)
    return not (isinstance(result, Tensor) and result.dtype == torch.bool)


def _treats_alike(function: Callable[[Tensor], Tensor], logits: Tensor, values: Tensor) -> bool:
    """Return whether a function gives each sample the same score at each place of a batch."""
    turned = _of_rows(function, logits.roll(1, 0))
    doubled = _of_rows(function, torch.cat([logits, logits]))
    if turned is None or doubled is None:
        return False
    return torch.allclose(turned, values.roll(1, 0)) and torch.allclose(
        doubled, torch.cat([values, values])
    )


def _of_rows(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor | None:
    """Return a function's scores of another number of samples; None if it fits only one number."""
    try:
        values = function(logits)
    except (TargetError, IndexError, RuntimeError, ValueError):
        return None
    return values if len(values) == len(logits) else None


def _linear(grads: list[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the channels with weights of each target, and these weights."""
    channels, weights = [], []
    for grad in grads:
        if grad.ndim < 2:
            used = grad.new_zeros(1, dtype=torch.long)
        else:
            used = grad.reshape(*grad.shape[:2], -1).any(2).any(0).nonzero()[:, 0]
            used = used if len(used) else used.new_zeros(1)
            grad = grad[:, used]
        channels.append(used)
        weights.append(grad)
    return tuple(channels), tuple(weights)
