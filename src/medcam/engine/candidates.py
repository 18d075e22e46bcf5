"""Candidates for the automatic layer on one image, and the choice among them."""

from __future__ import annotations

import dataclasses
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from medcam.engine.activation import Activation, as_evidence, used
from medcam.engine.graph import depends_on
from medcam.engine.model.layouts import Layout
from medcam.engine.model.nested import tensors

_MOST_EXPANSION = {False: 6, True: 8}
"""The largest factor by which blocks expand their channels: inverted bottlenecks six times, patch
merging with channels last eight times in 3D."""


_LEAST_SHARE = 0.1
"""The share of the evidence from which another branch is named."""


class Candidates:
    """The candidates on one image, in the order in which they replaced each other.

    Args:
        shape: The image's shape.

    Attributes:
        candidate: The current candidate.
        token_outputs: The outputs of tokens after it.
        branches: Layers of other branches of the model that the scores depend on, with their share
            of the evidence (the sum of ``|gradient · activation|``).
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._space = tuple(shape[2:])
        self._rank = len(shape)
        self.candidate: Activation | None = None
        self.token_outputs: list[Activation] = []
        self.branches: dict[str, float] = {}
        # of each replaced candidate a function that returns its tensor, and the rest of it
        self._replaced: list[tuple[Callable[[], Tensor | None], Activation]] = []

    def replace(self, activation: Activation, *, restart: bool) -> None:
        """Make an output the current candidate.

        After a restart the earlier candidate is needed only if a shortcut leads around the new
        one. Then the graph keeps it alive, so a weak reference is enough.
        """
        earlier = self.candidate
        if earlier is not None:
            tensor_of: Callable[[], Tensor | None] = partial(_stored, earlier)
            if restart:
                tensor_of = weakref.ref(earlier.stored)
                earlier = dataclasses.replace(earlier, stored=torch.empty(0))
            self._replaced.append((tensor_of, earlier))
        self.candidate = activation
        self.token_outputs = []

    def is_deeper(self, layout: Layout) -> bool:
        """Return whether a candidate is not larger than the current one, with no fewer channels."""
        space = layout.space
        if sum(extent > 1 for extent in space) < min(len(space), 2):
            return False
        if len(space) == len(self._space) and any(
            extent > whole for extent, whole in zip(space, self._space, strict=True)
        ):
            return False
        candidate = self.candidate
        return candidate is None or (
            prod(space) <= prod(candidate.layout.space)
            and layout.channels >= candidate.layout.channels
        )

    def is_block_around(self, name: str, inputs: Any, layout: Layout) -> bool:
        """Return whether this is the block whose expanded hidden layer is the candidate.

        Inverted bottlenecks (MBConv, ConvNeXt, MedNeXt) and the blocks of a Swin expand their
        channels up to six times inside. The block's output has fewer channels, but the network
        continues with it.
        """
        candidate = self.candidate
        if candidate is None or not candidate.layer.startswith(f"{name}."):
            return False
        block_input = next(
            (tensor for _, tensor in tensors(inputs) if tensor.ndim == self._rank), None
        )
        if block_input is None:
            return False
        is_last = layout.kind == "channels last"
        fewest_channels = candidate.layout.channels / _MOST_EXPANSION[is_last]
        channels = block_input.shape[-1 if is_last else 1]
        return (
            fewest_channels <= channels <= layout.channels
            and layout.space == candidate.layout.space != self._space
        )

    def is_residual_stream(self, layout: Layout) -> bool:
        """Return whether tokens have the residual stream's width, not that of a hidden layer.

        The width may only grow where the grid shrinks (patch merging).
        """
        if self.candidate is None or max(layout.space) == 1:
            return False
        embedding, count = self.candidate.layout, prod(layout.space)
        if not self.token_outputs and count != prod(embedding.space):
            return False  # the first tokens are the patches; flattened features are not
        earlier = [token_output.layout for token_output in self.token_outputs]
        finer = [other for other in earlier if prod(other.space) > count]
        not_finer = [other for other in earlier if prod(other.space) <= count]
        least = finer[-1].channels if finer else embedding.channels
        most = not_finer[-1].channels if not_finer else layout.channels
        if not_finer and prod(not_finer[-1].space) < count:
            return False
        if not finer and count == prod(embedding.space):
            most = min(most, embedding.channels)
        return least <= layout.channels <= most

    @property
    def last(self) -> Activation:
        """The current candidate."""
        if self.candidate is None:
            raise ValueError("there is no candidate yet")
        return self.candidate

    @property
    def earlier(self) -> list[str]:
        """The layers of the earlier candidates that still exist, the latest first.

        Where the graph restarts at a candidate, these are the ones that a shortcut leads from.
        """
        alive = [earlier.layer for tensor_of, earlier in self._replaced if tensor_of() is not None]
        return list(dict.fromkeys(reversed(alive)))

    @property
    def replaced(self) -> list[str]:
        """The layers of all earlier candidates, the latest first."""
        return list(dict.fromkeys(earlier.layer for _, earlier in reversed(self._replaced)))

    def used_runs(
        self, scores: Tensor, *, by_gradient: bool, same_extents: bool
    ) -> list[Activation]:
        """Return the runs of the chosen layer that the scores depend on; empty if none is.

        Args:
            scores: The scores.
            by_gradient: As in `medcam.engine.capture.used`.
            same_extents: As in `_around`.
        """
        if self.token_outputs:
            last = _last_with_gradient(self.token_outputs, scores)
            runs = [output for output in self.token_outputs if output.layer == last.layer]
            return used(runs, scores) or [last]
        alive = [
            dataclasses.replace(earlier, stored=stored)
            for tensor_of, earlier in self._replaced
            if (stored := tensor_of()) is not None
        ]
        connected = used([*alive, self.last], scores, by_gradient=by_gradient)
        if not connected:
            return []
        *others, last = connected
        around = self._around(last, others, scores, same_extents=same_extents)
        layer = self._main_branch(last, around, scores) if around else last.layer
        return [run for run in connected if run.layer == layer]

    def _around(
        self, last: Activation, others: Sequence[Activation], scores: Tensor, *, same_extents: bool
    ) -> list[Activation]:
        """Return the candidates that the scores depend on by a path around the last one.

        Args:
            last: The last candidate that the scores depend on.
            others: The earlier ones.
            scores: The scores.
            same_extents: Whether only candidates of the last one's extents are of interest: in a
                segmentation, skip connections lead around the bottleneck at larger ones.
        """
        others = [
            other for other in others
            if other.layer != last.layer
            and (not same_extents or other.layout.space == last.layout.space)
        ]  # fmt: skip
        bypassing: list[Activation] = []  # each has a path around those that came after it
        for other in reversed(others):
            later = [last.stored, *(activation.stored for activation in bypassing)]
            if depends_on(scores, [other.stored], around=later)[0]:
                bypassing.append(other)
        return bypassing[::-1]

    def _main_branch(self, last: Activation, around: Sequence[Activation], scores: Tensor) -> str:
        """Return the layer of the branch with the most evidence, and note the other branches.

        A gating signal has the extents of the features that it gates, and comes after them, but the
        network goes on from the features.
        """
        runs = [*around, last]
        grads = torch.autograd.grad(
            scores.sum(), [run.stored for run in runs], retain_graph=True, allow_unused=True
        )
        evidence: defaultdict[str, float] = defaultdict(float)
        for run, grad in zip(runs, grads, strict=True):
            if grad is not None:
                evidence[run.layer] += float((grad * run.stored.detach()).abs().double().sum())
        rivals = [run for run in runs if run.layout.space == last.layout.space]
        layer = max(reversed(rivals), key=lambda run: evidence[run.layer]).layer
        total = sum(evidence.values()) or 1.0
        self.branches = {
            name: share / total
            for name, share in evidence.items()
            if name != layer and share > _LEAST_SHARE * total
        }
        return layer


def _stored(activation: Activation) -> Tensor:
    """Return the recorded tensor; called like a weak reference to it."""
    return activation.stored


def _last_with_gradient(token_outputs: Sequence[Activation], scores: Tensor) -> Activation:
    """Return the last token output whose patch tokens influence the scores."""
    grads = torch.autograd.grad(
        scores.sum(),
        [token_output.stored for token_output in token_outputs],
        retain_graph=True,
        allow_unused=True,
    )
    for token_output, grad in zip(reversed(token_outputs), reversed(grads), strict=True):
        if grad is not None and bool(as_evidence(grad, token_output.layout).any()):
            return token_output
    return token_outputs[-1]  # the head's weights are zero: the map is zero at every layer
