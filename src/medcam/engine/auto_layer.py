"""Automatic choice of the layer: the deepest features, found during the forward pass.

A module's output is a candidate when it is a floating tensor on the input, at least two of its
spatial extents (of a signal, its one extent) exceed 1 and none exceeds the input's. A new candidate replaces the current one
when its spatial volume is not larger **and** its channels are not fewer. So the deepest features
win, the outermost module that returns the same tensor gives the name, and neither a decoder
(larger) nor a head (fewer channels) replaces a bottleneck.

Exceptions:

- Modules that add no features of their own are no candidates: pooling (no parameters, fewer
  elements out than in, or adaptive; the coarsest bin of a pyramid would win otherwise), depthwise
  convolutions (they mix no channels; the block around them is the layer), dropout and identity.
- The expanded hidden layer of an inverted bottleneck is replaced by the block around it.
- A candidate that the score does not depend on (an unused last downsampling, for example) is passed
  over for the candidate before it.
- In a token transformer the candidate is the patch embedding. Later token outputs ``[batch, tokens,
  channels]`` on its grid, with the width of the residual stream, are recorded too. The last one
  whose patch tokens have a gradient is chosen. In a ViT with a class token that is the
  normalisation before the last attention, since later patch tokens do not reach the class token.
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from medcam.engine.capture import (
    Activation,
    LayerKey,
    Recorder,
    as_evidence,
    copy_for_model,
    in_a_row,
    used,
)
from medcam.engine.model.copies import strided_copy
from medcam.engine.model.layouts import Layout
from medcam.engine.model.leaves import new_leaf
from medcam.engine.model.nested import tensors
from medcam.engine.model.placement.placements import MainTensor, Placements
from medcam.errors import NoMapError

_FEATURELESS = (
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)

_MOST_EXPANSION = {False: 6, True: 8}
"""The largest factor by which blocks expand their channels: inverted bottlenecks six times, patch
merging with channels last eight times in 3D."""

_log = logging.getLogger("medcam")


class AutoRecorder(Recorder):
    """Recorder that chooses the layer during the forward pass.

    The graph restarts at each better candidate, so no second forward pass is needed.

    Args:
        model: The model.
        images: As in `Recorder`.
        placements: As in `Recorder`.
        chosen: As in `Recorder`.
        restart: Whether the graph restarts at a candidate; not if the caller needs the graph.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        images: Sequence[Tensor],
        placements: Placements,
        chosen: int | None = None,
        restart: bool,
    ) -> None:
        super().__init__({}, images=images, placements=placements, chosen=chosen)
        self._restart = restart
        self._run_counts: Counter[LayerKey] = Counter()
        self._recorded_run: dict[LayerKey, int] = {}
        self._modules = {name: module for name, module in model.named_modules() if name}
        self._chains: dict[int, _Chain] = {}

    def _hooked_modules(self) -> Mapping[str, nn.Module]:
        return self._modules

    def _record_output(
        self,
        name: str,
        module: nn.Module,
        inputs: Any,
        output: Any,
        mains: Sequence[MainTensor],
    ) -> Any:
        main = mains[0]
        tensor, layout = main.tensor, main.layout
        self._run_counts.update((name, item.image) for item in mains)
        is_projection = isinstance(module, nn.Linear)  # queries, keys, values; hidden layers
        if tensor is not output or _is_featureless(module, inputs, tensor):
            return None
        chain = self._chain(main.image)
        if layout.kind == "tokens":
            if is_projection or not chain.is_residual_stream(layout):
                return None
        elif layout.kind == "rearranged" or (layout.kind == "channels last" and is_projection):
            return None
        elif not (chain.is_deeper(layout) or chain.is_block_around(name, inputs, layout)):
            return None
        is_token_output = layout.kind == "tokens"
        stored = self._graph_node(tensor) if is_token_output else self._start_of_graph(tensor)
        for item in mains:
            key = name, item.image
            self._recorded_run[key] = self._run_counts[key]
            activation = Activation(name, item.image, stored, item.layout)
            if is_token_output:
                self._chain(item.image).token_outputs.append(activation)
                continue
            for number in {item.image, *item.images}:
                self._chain(number).replace(activation, restart=self._restart)
        return copy_for_model(stored)

    def _chain(self, image: int) -> _Chain:
        """Return the candidates on an image."""
        return self._chains.setdefault(image, _Chain(self._images[image].shape))

    def _recomputed(self, name: str, module: nn.Module, output: Any) -> Any:
        return None

    def _start_of_graph(self, tensor: Tensor) -> Tensor:
        """Return a candidate's tensor as a leaf, or as a node if the graph has to stay whole."""
        if not self._restart:
            return self._graph_node(tensor)
        return new_leaf(strided_copy(tensor) if tensor.is_inference() else tensor)

    def chose_last_run(self, key: LayerKey) -> bool:
        """Return whether the recorded run of a layer was its last, so its name identifies it."""
        return self._run_counts[key] == self._recorded_run[key]

    def activations(self, scores: Tensor) -> list[Activation]:
        """Return the activation of the chosen layer, one for each image that it depends on.

        Raises:
            NoMapError: The model has no layer with spatial features.
        """
        chains = {n: chain for n, chain in self._chains.items() if chain.candidate is not None}
        if not chains:
            spaces = " or ".join(str(tuple(image.shape[2:])) for image in self._images)
            axes = "at least two spatial axes" if self._images[0].ndim > 3 else "a time axis"
            raise NoMapError(
                f"No layer was found automatically: no module returns features with {axes} on the "
                f"input's grid {spaces}. If the model's blocks are plain "
                "functions, name a layer: medcam.get_layers(model); methods that need no layer are "
                "'saliency', 'inputxgradient' and 'gbp'."
            )
        chosen: dict[tuple[int, int], Activation] = {}
        unused: list[Activation] = []
        for chain in chains.values():
            runs = chain.used_runs(scores, by_gradient=self.by_gradient)
            if not runs:
                unused.append(chain.last)
                continue
            row = in_a_row(runs)
            if row is None:
                self.note_last_run_only(runs)
            activation = row or runs[-1]
            if reason := activation.layout.missing_samples:
                raise NoMapError(
                    f"No map can be made of layer {activation.layer!r}, which was chosen "
                    f"automatically: {reason}. Name another layer: medcam.get_layers(model)."
                )
            chosen.setdefault((id(runs[-1].stored), activation.image), activation)
        for activation in chosen.values():
            self._log_choice(activation)
        return list(chosen.values()) or unused[:1]

    def _log_choice(self, chosen: Activation) -> None:
        space = tuple(self._images[chosen.image].shape[2:])
        _log.info(
            "layer chosen automatically: %r, %d channels of %s%s",
            chosen.layer,
            chosen.layout.channels,
            chosen.layout.space,
            " at the input's own size: without a coarser layer, the map may be little more than "
            "the logits again"
            if chosen.layout.space == space
            else "",
        )


class _Chain:
    """The candidates on one image, in the order in which they replaced each other.

    Args:
        shape: The image's shape.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._space = tuple(shape[2:])
        self._rank = len(shape)
        self.candidate: Activation | None = None
        self.token_outputs: list[Activation] = []
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
        assert self.candidate is not None
        return self.candidate

    def used_runs(self, scores: Tensor, *, by_gradient: bool) -> list[Activation]:
        """Return the runs of the chosen layer that the scores depend on; empty if none is.

        Args:
            scores: The scores.
            by_gradient: As in `medcam.engine.capture.used`.
        """
        if self.token_outputs:
            return [_last_with_gradient(self.token_outputs, scores)]
        alive = [
            dataclasses.replace(earlier, stored=stored)
            for tensor_of, earlier in self._replaced
            if (stored := tensor_of()) is not None
        ]
        connected = used([*alive, self.last], scores, by_gradient=by_gradient)
        return [run for run in connected if run.layer == connected[-1].layer]


def _stored(activation: Activation) -> Tensor:
    """Return the recorded tensor; called like a weak reference to it."""
    return activation.stored


def _is_featureless(module: nn.Module, inputs: Any, output: Tensor) -> bool:
    """Return whether a module is a pooling, a depthwise convolution, dropout or identity."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return 1 < module.groups == module.in_channels
    if isinstance(module, _FEATURELESS):
        return True
    if next(module.parameters(), None) is not None:
        return False
    sizes = [tensor.numel() for _, tensor in tensors(inputs)]
    return bool(sizes) and output.numel() < sizes[0]


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
