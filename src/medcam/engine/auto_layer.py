"""Automatic choice of the layer: the deepest features, found during the forward pass.

A module's output is a candidate when it is a floating tensor on the input, at least two of its
spatial extents (of a signal, its one extent) exceed 1 and none exceeds the input's. A new candidate
replaces the current one when its spatial volume is not larger **and** its channels are not fewer.
So the deepest features win, the outermost module that returns the same tensor gives the name, and
neither a decoder (larger) nor a head (fewer channels) replaces a bottleneck.

Exceptions:

- Modules that add no features of their own are no candidates: pooling (no parameters, fewer
  elements out than in, or adaptive; the coarsest bin of a pyramid would win otherwise), depthwise
  convolutions (they mix no channels; the block around them is the layer), dropout and identity.
- The expanded hidden layer of an inverted bottleneck is replaced by the block around it.
- A candidate that the score does not depend on (an unused last downsampling, for example) is passed
  over for the candidate before it.
- Of candidates of the same extents in several branches (an ensemble; features and the signal that
  gates them) the one with the most evidence is taken, and the others are named.
- In a token transformer the candidate is the patch embedding. Later token outputs ``[batch, tokens,
  channels]`` on its grid, with the width of the residual stream, are recorded too. The last one
  whose patch tokens have a gradient is chosen. In a ViT with a class token that is the
  normalisation before the last attention, since later patch tokens do not reach the class token.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from medcam.engine.activation import (
    Activation,
    LayerKey,
    copy_for_model,
    in_a_row,
)
from medcam.engine.candidates import Candidates
from medcam.engine.capture import APART, Recorder
from medcam.engine.model.copies import strided_copy
from medcam.engine.model.layouts import see_different_views
from medcam.engine.model.leaves import new_leaf
from medcam.engine.model.nested import tensors
from medcam.engine.model.placements import MainTensor, Placements
from medcam.errors import NoMapError

_FEATURELESS = (
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


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
        self._chains: dict[int, Candidates] = {}
        self._activations: list[Activation] | None = None

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
        elif (
            layout.kind == "rearranged"
            or (layout.kind == "channels last" and is_projection)
            or not (chain.is_deeper(layout) or chain.is_block_around(name, inputs, layout))
        ):
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

    def _chain(self, image: int) -> Candidates:
        """Return the candidates on an image."""
        return self._chains.setdefault(image, Candidates(self._images[image].shape))

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

    @property
    def branches(self) -> dict[str, float]:
        """Other layers that the target depends on, with their share of the evidence."""
        return {
            name: share for chain in self._chains.values() for name, share in chain.branches.items()
        }

    def others(self, chosen: Activation) -> list[str]:
        """Return the layers that may be explained instead of a choice, in the order to try them.

        They are earlier ones that a skip connection leads from, the deepest first. In a network
        without strides, they are the layers from the middle on back.

        Args:
            chosen: What `activations` returned.
        """
        chain = self._chains[chosen.image]
        if not self.is_full_size(chosen):
            return [name for name in chain.earlier if name != chosen.layer]
        blocks = [name for name in chain.replaced if self._modules[name]._modules]
        names = blocks if len(blocks) > 1 else chain.replaced
        return [name for name in names[len(names) // 2 :] if name != chosen.layer]

    def is_full_size(self, chosen: Activation) -> bool:
        """Return whether a layer has the extents of its image."""
        return chosen.layout.space == tuple(self._images[chosen.image].shape[2:])

    def activations(self, scores: Tensor) -> list[Activation]:
        """Return the activation of the chosen layer, one for each image that it depends on.

        Raises:
            NoMapError: The model has no layer with spatial features.
        """
        if self._activations is None or not scores.requires_grad:
            self._activations = self._choose(scores)
        return self._activations

    def _choose(self, scores: Tensor) -> list[Activation]:
        chains = {n: chain for n, chain in self._chains.items() if chain.candidate is not None}
        if not chains:
            spaces = " or ".join(str(tuple(image.shape[2:])) for image in self._images)
            axes = "at least two spatial axes" if self._images[0].ndim > 3 else "a time axis"
            raise NoMapError(
                f"No layer was found automatically: no module returns features with {axes} on the "
                f"input's grid {spaces}. {self._why()}name a layer: medcam.get_layers(model); "
                "methods that need no layer are 'saliency', 'inputxgradient' and 'gbp'."
            )
        chosen: dict[tuple[int, int], Activation] = {}
        unused: list[Activation] = []
        for chain in chains.values():
            runs = chain.used_runs(
                scores, by_gradient=self.by_gradient, same_extents=self.is_segmentation
            )
            if not runs:
                unused.append(chain.last)
                continue
            row = in_a_row(runs)
            activation = row or runs[-1]
            is_apart = row is None and see_different_views([run.layout for run in runs])
            if row is None and not is_apart:
                self.note_last_run_only(runs)
            missing = activation.layout.missing_samples(is_bag=self.is_bag)
            if reason := APART if is_apart else missing:
                raise NoMapError(
                    f"No map can be made of layer {activation.layer!r}, which was chosen "
                    f"automatically: {reason}. Name another layer: medcam.get_layers(model)."
                )
            chosen.setdefault((id(runs[-1].stored), activation.image), activation)
        for activation in chosen.values():
            self._log_choice(activation)
        return list(chosen.values()) or unused[:1]

    def _why(self) -> str:
        """Return why the first convolution is no candidate, if it ran."""
        for name, module in self._modules.items():
            if isinstance(module, nn.modules.conv._ConvNd) and (reason := self.reason(name)):
                return f"Layer {name!r} has no map, because {reason}. If another one has, "
        return "If the model's blocks are plain functions, "

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
