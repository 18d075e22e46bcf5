"""Automatic choice of the layer: the deepest features, found during the forward pass.

A module's output is a candidate when it is a floating tensor of the input's rank, at least two of
its spatial extents exceed 1 and none exceeds the input's. A new candidate replaces the current one
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
    Recorder,
    as_evidence,
    copy_for_model,
    last_connected,
)
from medcam.engine.model.copies import strided_copy
from medcam.engine.model.layouts import Layout
from medcam.engine.model.nested import tensors
from medcam.errors import NoMapError

_FEATURELESS = (
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)

_MOST_EXPANSION = 6
"""The largest factor by which inverted bottlenecks expand their channels."""

_log = logging.getLogger("medcam")


class AutoRecorder(Recorder):
    """Recorder that chooses the layer during the forward pass.

    The graph restarts at each better candidate, so no second forward pass is needed.

    Args:
        model: The model.
        batch: The batch size.
        space: The input's spatial shape.
        restart: Whether the graph restarts at a candidate; not if the caller needs the graph.
    """

    def __init__(
        self, model: nn.Module, *, batch: int, space: Sequence[int], restart: bool
    ) -> None:
        super().__init__({}, batch=batch, space=space)
        self._restart = restart
        self._run_counts: Counter[str] = Counter()
        self._recorded_run: dict[str, int] = {}
        self._modules = {name: module for name, module in model.named_modules() if name}
        self._candidate: Activation | None = None
        # of each replaced candidate the name, the layout, and a function that returns its tensor
        self._replaced: list[tuple[str, Layout, Callable[[], Tensor | None]]] = []
        self._token_outputs: list[Activation] = []

    def _hooked_modules(self) -> Mapping[str, nn.Module]:
        return self._modules

    def _record_output(
        self,
        name: str,
        module: nn.Module,
        inputs: Any,
        output: Any,
        tensor: Tensor,
        layout: Layout,
    ) -> Any:
        self._run_counts[name] += self._recording
        is_whole_output = output is tensor
        if not self._recording or not is_whole_output or _is_featureless(module, inputs, tensor):
            return None
        is_projection = isinstance(module, nn.Linear)  # queries, keys or values of an attention
        if layout.kind == "tokens" and not is_projection and self._is_residual_stream(layout):
            self._recorded_run[name] = self._run_counts[name]
            token_output = Activation(name, self._graph_node(tensor), layout)
            self._token_outputs.append(token_output)
            return copy_for_model(token_output.stored)
        is_better = self._is_deeper(layout) or self._is_block_around(name, inputs, layout)
        if layout.kind == "channels first" and is_better:
            return copy_for_model(self._replace_candidate(name, tensor, layout).stored)
        return None

    def _replace_candidate(self, name: str, tensor: Tensor, layout: Layout) -> Activation:
        """Make an output the current candidate, and return it.

        After a restart the earlier candidate is needed only if a shortcut leads around the new
        one. Then the graph keeps it alive, so a weak reference is enough.
        """
        self._recorded_run[name] = self._run_counts[name]
        if self._restart:
            tensor = strided_copy(tensor) if tensor.is_inference() else tensor
            stored = tensor.detach().requires_grad_()
        else:
            stored = self._graph_node(tensor)
        if self._candidate is not None:
            earlier = self._candidate
            tensor_of = weakref.ref(earlier.stored) if self._restart else partial(_stored, earlier)
            self._replaced.append((earlier.layer, earlier.layout, tensor_of))
        self._candidate = Activation(name, stored, layout)
        self._token_outputs = []
        return self._candidate

    def _is_deeper(self, layout: Layout) -> bool:
        """Return whether a candidate is not larger than the current one, with no fewer channels."""
        if sum(extent > 1 for extent in layout.space) < 2:
            return False
        if any(extent > whole for extent, whole in zip(layout.space, self._space, strict=True)):
            return False
        candidate = self._candidate
        return candidate is None or (
            prod(layout.space) <= prod(candidate.layout.space)
            and layout.channels >= candidate.layout.channels
        )

    def _is_block_around(self, name: str, inputs: Any, layout: Layout) -> bool:
        """Return whether this is the block whose expanded hidden layer is the candidate.

        Inverted bottlenecks (MBConv, ConvNeXt, MedNeXt) expand their channels up to six times
        inside. The block's output has fewer channels, but the network continues with it.
        """
        candidate = self._candidate
        if candidate is None or not candidate.layer.startswith(f"{name}."):
            return False
        rank = len(self._space) + 2
        block_input = next((tensor for _, tensor in tensors(inputs) if tensor.ndim == rank), None)
        fewest_channels = candidate.layout.channels / _MOST_EXPANSION
        return (
            block_input is not None
            and fewest_channels <= block_input.shape[1] <= layout.channels
            and layout.space == candidate.layout.space != self._space
        )

    def _is_residual_stream(self, layout: Layout) -> bool:
        """Return whether tokens have the residual stream's width, not that of a hidden layer.

        The width may only grow where the grid shrinks (patch merging).
        """
        if self._candidate is None or max(layout.space) == 1:
            return False
        embedding, count = self._candidate.layout, prod(layout.space)
        if not self._token_outputs and count != prod(embedding.space):
            return False  # the first tokens are the patches; flattened features are not
        earlier = [token_output.layout for token_output in self._token_outputs]
        finer = [other for other in earlier if prod(other.space) > count]
        not_finer = [other for other in earlier if prod(other.space) <= count]
        least = finer[-1].channels if finer else embedding.channels
        most = not_finer[-1].channels if not_finer else layout.channels
        if not_finer and prod(not_finer[-1].space) < count:
            return False
        if not finer and count == prod(embedding.space):
            most = min(most, embedding.channels)
        return least <= layout.channels <= most

    def chose_last_run(self, name: str) -> bool:
        """Return whether the recorded run of a layer was its last, so its name identifies it."""
        return self._run_counts[name] == self._recorded_run[name]

    def activations(self, scores: Tensor) -> list[Activation]:
        """Return the activation of the chosen layer, as a list of one.

        Raises:
            NoMapError: The model has no layer with spatial features.
        """
        if self._candidate is None:
            raise NoMapError(
                "No layer was found automatically: no module returns features with at least two "
                f"spatial axes on the input's grid {self._space}. For a token transformer, or a "
                "model whose blocks are plain functions, name a layer: medcam.get_layers(model); "
                "methods that need no layer are 'saliency', 'inputxgradient' and 'gbp'."
            )
        chosen = (
            _last_with_gradient(self._token_outputs, scores)
            if self._token_outputs
            else self._last_connected_candidate(self._candidate, scores)
        )
        has_input_size = chosen.layout.space == self._space
        _log.info(
            "layer chosen automatically: %r, %d channels of %s%s",
            chosen.layer,
            chosen.layout.channels,
            chosen.layout.space,
            " at the input's own size: without a coarser layer, the map may be little more than "
            "the logits again"
            if has_input_size
            else "",
        )
        return [chosen]

    def _last_connected_candidate(self, candidate: Activation, scores: Tensor) -> Activation:
        """Return the current candidate, or an earlier one if the scores do not depend on it."""
        alive = [
            Activation(name, stored, layout)
            for name, layout, tensor_of in self._replaced
            if (stored := tensor_of()) is not None
        ]
        return last_connected([*alive, candidate], scores) if alive else candidate


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
