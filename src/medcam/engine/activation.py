"""Activations: what was recorded of a layer in one run, or in several on parts of an image."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medcam.engine.graph import depends_on
from medcam.engine.model.copies import strided_copy
from medcam.engine.model.layouts import Layout, stacked
from medcam.engine.model.nested import without_subclass
from medcam.errors import NoMapError

LayerKey = tuple[str, int]
"""A layer's name and the number of the image that its run saw."""


@dataclass(eq=False)
class Activation:
    """The output of one layer in one of its runs, or in several that see parts of one image.

    Attributes:
        layer: The layer's name.
        image: The number of the image that the run saw.
        stored: The output, attached to the graph; the model continues with a copy.
        layout: How to read the output as ``[samples, channels, *space]``.
        further: The outputs of further runs, each on the next part of the image: slices, views,
            samples or tiles.
        layouts: How to read the output of each run; empty for one run.
        group: As in `medcam.engine.model.placement.runs.Joined`.
        kept: As in `medcam.engine.model.placement.runs.Joined`.
        version: The version counter of ``stored``, which a later in-place change increases.
        samples: The extent of the first axis of ``stored``.
    """

    layer: str
    image: int
    stored: Tensor
    layout: Layout
    further: tuple[Activation, ...] = ()
    layouts: tuple[Layout, ...] = ()
    group: int = 1
    kept: int = 1
    version: int = field(init=False)
    samples: int = field(init=False)

    def __post_init__(self) -> None:
        self.version = self.stored._version
        self.samples = len(self.stored)

    @property
    def key(self) -> LayerKey:
        """The layer and the number of the image."""
        return self.layer, self.image

    @property
    def tensors(self) -> list[Tensor]:
        """The outputs of all runs."""
        return [self.stored, *(activation.stored for activation in self.further)]

    @property
    def values(self) -> Tensor:
        """The activations ``[samples, channels, *space]``, without a graph.

        Raises:
            NoMapError: The model changed the tensor in place after the layer.
        """
        for activation in (self, *self.further):
            if activation.stored._version != activation.version:
                raise NoMapError(
                    f"The output of layer {self.layer!r} was changed in place after the layer ran, "
                    "so its activations are lost. Choose the layer before or after it."
                )
        return self.evidence(self.tensors)

    def evidence(self, values: Sequence[Tensor]) -> Tensor:
        """Return tensors of the layer's shape, one for each run, as evidence of all runs."""
        if not self.layouts:
            return as_evidence(values[0], self.layout)
        pairs = zip(values, self.layouts, strict=True)
        per_run = [as_evidence(tensor, layout) for tensor, layout in pairs]
        rows = [
            run.reshape(layout.samples * self.kept, -1, *self.evidence_shape[1:])
            for run, layout in zip(per_run, self.layouts, strict=True)
        ]
        groups = [
            torch.cat(rows[number : number + self.group], 1).flatten(0, 1)
            for number in range(0, len(rows), self.group)
        ]
        return torch.cat(groups).reshape(self.evidence_shape)

    @property
    def evidence_shape(self) -> tuple[int, ...]:
        """The extents ``[samples, channels, *space]`` of the evidence of all runs."""
        arrangement = self.layout.arrangement
        samples = self.samples if arrangement is None else arrangement.evidence[0]
        return samples, self.layout.channels, *self.layout.space

    def as_bag(self) -> Activation:
        """Return the activation for an input whose first axis is slices of one case."""
        return dataclasses.replace(self, layout=self.layout.as_bag())

    def release(self) -> None:
        """Release the tensors; `values` is empty afterwards."""
        for activation in (self, *self.further):
            activation.stored = torch.empty(0)
            activation.version = activation.stored._version


def copy_for_model(stored: Tensor) -> Tensor:
    """Return a copy for the model, so that its in-place changes do not reach ``stored``.

    Copy-on-write where available: most outputs are never modified.
    """
    if stored.device.type in ("cpu", "cuda") and hasattr(torch, "_lazy_clone"):
        # copy-on-write fails for memory that PyTorch did not allocate, such as a NumPy array's
        with contextlib.suppress(RuntimeError):
            return torch._lazy_clone(stored)
    return strided_copy(stored)


def as_evidence(tensor: Tensor, layout: Layout) -> Tensor:
    """Return a plain tensor ``[batch, channels, *space]``, detached, at least float32."""
    values = layout.channels_first(without_subclass(tensor.detach()))
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def used(
    activations: Sequence[Activation], scores: Tensor, *, by_gradient: bool = False
) -> list[Activation]:
    """Return the activations that the scores depend on.

    The head of a detector's pyramid runs at every level, and the scores of all levels are joined.
    So each run is connected with the score of a detection, but only its own level has a gradient.

    Args:
        activations: Runs of a layer.
        scores: The scores.
        by_gradient: Whether only runs with a gradient other than zero count, if there is one.
    """
    stored = [activation.stored for activation in activations]
    connected = [
        activation
        for activation, is_connected in zip(activations, depends_on(scores, stored), strict=True)
        if is_connected
    ]
    if not by_gradient or len(connected) < 2:
        return connected
    grads = torch.autograd.grad(
        scores.sum(), [run.stored for run in connected], retain_graph=True, allow_unused=True
    )
    with_gradient = [
        run for run, grad in zip(connected, grads, strict=True)
        if grad is not None and bool(grad.any())
    ]  # fmt: skip
    return with_gradient or connected


def in_a_row(runs: Sequence[Activation]) -> Activation | None:
    """Return runs that see a part of the image each (slices, views, tiles) as one activation.

    Returns:
        The activation; None if the parts do not lie evenly beside each other.
    """
    joined = stacked([activation.layout for activation in runs])
    if joined is None:
        return None
    first, *further = [runs[number] for number in joined.order]
    return dataclasses.replace(
        first,
        layout=Layout.of_arrangement(joined.arrangement),
        further=tuple(further),
        layouts=tuple(run.layout for run in (first, *further)),
        group=joined.group,
        kept=joined.kept,
    )
