"""The automatic layer: the deepest rich features, decided while the model runs.

A module's output is a candidate when it is a floating tensor of the input's rank, at least two of
its spatial extents exceed 1 and none exceeds the input's. A candidate replaces the one held when
its spatial volume is not larger **and** its channels are not fewer. So the deepest features win
over all that came before, the outermost module that returns the same tensor gives the name, and
neither a decoder (larger) nor a head (fewer channels) displaces a bottleneck.

Some modules are no candidates, because they add no features of their own: pooling (no parameters,
fewer elements out than in, or adaptive; a pyramid's coarsest bin would win otherwise), depthwise
convolutions (no channel is mixed; the block around them is the layer), dropout and identity.

The widened hidden layer of an inverted bottleneck gives way to the block around it.

A candidate on which the score does not depend (an unused last downsampling, say) is passed over for
the one held before it.

Token transformers: where a patch embedding is held, later token outputs ``[batch, tokens,
channels]`` that fit its grid are remembered too, as long as they have the width of the residual
stream, and the last one through whose patch tokens the score still flows is taken. In a ViT with a
class token that is the normalisation before the last attention: after it, patch tokens no longer
reach the class token.
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

from medcam.engine.capture import Activation, Recorder, as_map, copy_for_model
from medcam.engine.graph import depends_on
from medcam.engine.model.layouts import Layout
from medcam.engine.model.nested import tensors
from medcam.errors import NoMapError

_FEATURELESS = (
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)

_WIDENED = 6  # times, inside an inverted bottleneck

_log = logging.getLogger("medcam")


class AutoRecorder(Recorder):
    """Chooses the layer during the forward pass, and records it alone.

    Each better candidate restarts the graph, so no second forward pass is needed.

    Args:
        model: The model.
        batch: The batch size.
        space: The input's spatial shape.
        restart: Whether a candidate begins the graph anew (not if the caller needs the graph).
    """

    def __init__(
        self, model: nn.Module, *, batch: int, space: Sequence[int], restart: bool
    ) -> None:
        super().__init__({}, batch=batch, space=space)
        self._restart = restart
        self._runs: Counter[str] = Counter()
        self._run_taken: dict[str, int] = {}
        self._names = {name: module for name, module in model.named_modules() if name}
        self._held: Activation | None = None
        self._before: list[tuple[str, Layout, Callable[[], Tensor | None]]] = []
        self._tokens: list[Activation] = []

    def _watched(self) -> Mapping[str, nn.Module]:
        return self._names

    def _store(
        self,
        name: str,
        module: nn.Module,
        inputs: Any,
        output: Any,
        tensor: Tensor,
        layout: Layout,
    ) -> Any:
        self._runs[name] += self._recording
        if not self._recording or output is not tensor or _adds_nothing(module, inputs, tensor):
            return None
        projection = isinstance(module, nn.Linear)  # queries, keys or values: not the stream
        if layout.kind == "tokens" and not projection and self._is_stream(layout):
            self._run_taken[name] = self._runs[name]
            token = Activation(name, self._in_graph(tensor), layout)
            self._tokens.append(token)
            return copy_for_model(token.stored)
        better = self._is_better(layout) or self._is_block_around(name, inputs, layout)
        if layout.kind == "channels first" and better:
            return copy_for_model(self._hold(name, tensor, layout).stored)
        return None

    def _hold(self, name: str, tensor: Tensor, layout: Layout) -> Activation:
        """Holds a candidate; the one before stays known for as long as the graph needs it."""
        self._run_taken[name] = self._runs[name]
        if self._restart:
            tensor = tensor.clone() if tensor.is_inference() else tensor
            stored = tensor.detach().requires_grad_()
        else:
            stored = self._in_graph(tensor)
        if self._held is not None:
            old = self._held.stored
            recall = weakref.ref(old) if self._restart else partial(_same, old)
            self._before.append((self._held.layer, self._held.layout, recall))
        self._held = Activation(name, stored, layout)
        self._tokens = []
        return self._held

    def _is_better(self, layout: Layout) -> bool:
        if sum(extent > 1 for extent in layout.space) < 2:
            return False
        if any(extent > whole for extent, whole in zip(layout.space, self._space, strict=True)):
            return False
        held = self._held
        return held is None or (
            prod(layout.space) <= prod(held.layout.space)
            and layout.channels >= held.layout.channels
        )

    def _is_block_around(self, name: str, inputs: Any, layout: Layout) -> bool:
        """Whether this is the block whose widened hidden layer is held.

        Inverted bottlenecks (MBConv, ConvNeXt, MedNeXt) widen their features up to six times
        inside; what leaves the block is narrower, and is what the network goes on with.
        """
        held = self._held
        if held is None or not held.layer.startswith(f"{name}."):
            return False
        given = next((t for _, t in tensors(inputs) if t.ndim == len(self._space) + 2), None)
        narrowest = held.layout.channels / _WIDENED
        return (
            given is not None
            and narrowest <= given.shape[1] <= layout.channels
            and layout.space == held.layout.space != self._space
        )

    def _is_stream(self, layout: Layout) -> bool:
        """Whether tokens have the residual stream's width, not that of a block's hidden layer.

        The width may only grow where the grid shrinks (patch merging).
        """
        if self._held is None or max(layout.space) == 1:
            return False
        if not self._tokens and prod(layout.space) != prod(self._held.layout.space):
            return False  # the first tokens are the patches; flattened features are not
        coarser = [prod(token.layout.space) > prod(layout.space) for token in self._tokens]
        beside = [token for token, c in zip(self._tokens, coarser, strict=True) if not c]
        above = [token for token, c in zip(self._tokens, coarser, strict=True) if c]
        least = above[-1].layout.channels if above else self._held.layout.channels
        most = beside[-1].layout.channels if beside else layout.channels
        if beside and prod(beside[-1].layout.space) < prod(layout.space):
            return False
        if not above and prod(layout.space) == prod(self._held.layout.space):
            most = min(most, self._held.layout.channels)
        return least <= layout.channels <= most

    def took_last_run(self, name: str) -> bool:
        """Whether a layer's name alone says which of its runs was chosen: the last one."""
        return self._runs[name] == self._run_taken[name]

    def activations(self, scores: Tensor) -> list[Activation]:
        """The one chosen.

        Raises:
            NoMapError: The model has no layer with spatial features.
        """
        if self._held is None:
            raise NoMapError(
                "No layer was found automatically: no module puts out features with at least two "
                f"spatial axes on the input's grid {self._space}. For a token transformer, or a "
                "model whose blocks are plain functions, name a layer: medcam.get_layers(model); "
                "methods that need no layer are 'saliency', 'inputxgradient' and 'gbp'."
            )
        chosen = (
            _last_that_counts(self._tokens, scores)
            if self._tokens
            else self._used(self._held, scores)
        )
        at_logits = chosen.layout.space == self._space
        _log.info(
            "layer chosen automatically: %r, %d channels of %s%s",
            chosen.layer,
            chosen.layout.channels,
            chosen.layout.space,
            " at the input's own size: without a coarser layer, the map may be little more than "
            "the logits again"
            if at_logits
            else "",
        )
        return [chosen]

    def _used(self, held: Activation, scores: Tensor) -> Activation:
        """The last candidate that the scores depend on."""
        candidates = [
            Activation(name, stored, layout)
            for name, layout, recall in self._before
            if (stored := recall()) is not None
        ]
        candidates.append(held)
        if len(candidates) == 1:
            return held
        used = depends_on(scores, [candidate.stored for candidate in candidates])
        return next((c for c, u in zip(candidates[::-1], used[::-1], strict=True) if u), held)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _adds_nothing(module: nn.Module, inputs: Any, output: Tensor) -> bool:
    """Whether a module is a pooling, a depthwise convolution, or passes its input on."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return 1 < module.groups == module.in_channels
    if isinstance(module, _FEATURELESS):
        return True
    if next(module.parameters(), None) is not None:
        return False
    given = [tensor.numel() for _, tensor in tensors(inputs)]
    return bool(given) and output.numel() < given[0]


def _last_that_counts(tokens: Sequence[Activation], scores: Tensor) -> Activation:
    """The last token output whose patch tokens influence the scores."""
    grads = torch.autograd.grad(
        scores.sum(), [token.stored for token in tokens], retain_graph=True, allow_unused=True
    )
    for token, grad in zip(reversed(tokens), reversed(grads), strict=True):
        if grad is not None and bool(as_map(grad, token.layout).any()):
            return token
    return tokens[-1]  # a head of zeros: every choice gives a map of zeros
