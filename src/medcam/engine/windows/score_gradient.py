"""From a target on the stitched prediction to the gradient each window's backward pass starts with.

The stitched prediction is ``L(v) = Σ_p g_p(v) y^p(v) / Σ_p g_p(v)``, so for any score ``S(L)`` the
chain rule gives the gradient at window ``p``: ``∂S/∂y^p = w_p ⊙ ∂S/∂L`` with ``w_p = g_p / Σ g``.
The sum of the windows' gradients is then exactly the gradient through the stitching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from medcam.engine.notices import Notices
from medcam.engine.target.resolution import TargetLike, reads_output, resolve
from medcam.engine.windows.tiling import Place, Windows
from medcam.errors import NoMapError
from medcam.maps import ResolvedTarget


@dataclass(frozen=True, eq=False)
class ScoreGradient:
    """The score's gradient with respect to the stitched prediction, for each target.

    Attributes:
        target: The resolved target.
        channels: For each target, the classes whose logits the score depends on.
        values: For each target, the gradient with respect to these logits.
        of_output: Whether the target is a function of the output, so that a model that ends in
            probabilities is explained there, not at its logits.
    """

    target: ResolvedTarget
    channels: Sequence[Int[Tensor, " classes"]]
    values: Sequence[Float[Tensor, "batch classes *padded"]]
    of_output: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def touches(self, sample: int, place: Place) -> bool:
        """Return whether a window holds a voxel that a target depends on."""
        return any(bool(values[(sample, slice(None), *place)].any()) for values in self.values)

    def score(
        self,
        logits: Float[Tensor, "windows classes *roi"],
        places: Sequence[tuple[int, Place]],
        weights: Sequence[Float[Tensor, "*roi"]],
        flips: Sequence[int] = (),
    ) -> Float[Tensor, "windows targets"]:
        """Return each window's share of each target's score.

        Args:
            logits: The model's output for the windows.
            places: The windows' samples and places.
            weights: The weight of each voxel of each window.
            flips: The spatial axes along which the windows were mirrored.
        """
        axes = [axis + 1 for axis in flips]
        columns = []
        for channels, values in zip(self.channels, self.values, strict=True):
            parts = [
                values[(sample, slice(None), *place)] * weight.to(values.device)
                for (sample, place), weight in zip(places, weights, strict=True)
            ]
            gradient = torch.stack([part.flip(axes) if axes else part for part in parts])
            used_logits = logits[:, channels.to(logits.device)]
            gradient = gradient.to(device=logits.device)
            dtype = torch.promote_types(used_logits.dtype, gradient.dtype)
            columns.append((used_logits.to(dtype) * gradient.to(dtype)).flatten(1).sum(1))
        return torch.stack(columns, 1)


def score_gradient(
    target: TargetLike,
    logits: Float[Tensor, "batch classes *space"],
    windows: Windows,
    notices: Notices,
    *,
    regions: bool = False,
) -> ScoreGradient:
    """Return the gradient of a target's score with respect to a stitched prediction.

    Args:
        target: As in `medcam.explain`.
        logits: The stitched prediction.
        windows: The windows; the gradient is padded to their grid.
        notices: Warnings are added to these.
        regions: Whether the channels are regions that may overlap, as after a sigmoid.

    Raises:
        TargetError: The target does not fit the prediction.
        NoMapError: The target's score does not depend on the prediction.
    """
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        scores = resolve(target, leaf, notices, axes=leaf.ndim - 2, regions=regions)
        if not scores.values.requires_grad:
            raise NoMapError(
                "The target's score does not depend on the logits: a callable has to return "
                "scores computed from them, or a boolean mask."
            )
        columns = [column.sum() for column in scores.values.unbind(1)]
        channels, values = [], []
        for index, column in enumerate(columns):
            (grad,) = torch.autograd.grad(column, leaf, retain_graph=index + 1 < len(columns))
            used = grad.flatten(2).any(2).any(0).nonzero()[:, 0]
            used = used if len(used) else used.new_zeros(1)
            channels.append(used)
            values.append(
                F.pad(grad[:, used], windows.padding) if windows.padding else grad[:, used]
            )
    return ScoreGradient(scores.target, channels, values, reads_output(target))
