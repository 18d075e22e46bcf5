"""Replays: evidence that runs the model again, on changed images or features of one sample.

The target is fixed on the original output (`medcam.engine.fixed_target`). The model runs in its
present mode; what it stores, its small buffers and its random numbers are put back after each run.
All other inputs stay as they are, repeated for each changed image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medcam.engine.activation import Activation
from medcam.engine.assemble import Assembled, on_image
from medcam.engine.evidence import Evidence
from medcam.engine.explained import logits_of_run
from medcam.engine.fixed_target import FixedTarget
from medcam.engine.model import isolation
from medcam.engine.model.inputs import find_images
from medcam.engine.model.layers import LayerChoice
from medcam.engine.model.nested import map_tensors, without_subclass
from medcam.engine.model.silencing import without_channels
from medcam.engine.notices import SilentNotices
from medcam.engine.own_input import UnusedError
from medcam.engine.prepare import Prepared
from medcam.engine.replay_progress import Reported, functions_of
from medcam.errors import NoMapError
from medcam.maps import LayerGrid
from medcam.methods import Method
from medcam.methods.changes import MOST_VALUES


class RecordedRun(Protocol):
    """What `medcam.engine.passes.record` returns, as far as a replay needs it."""

    @property
    def evidence(self) -> Evidence:
        """The evidence of the run."""

    @property
    def assembled(self) -> Assembled:
        """Its maps."""


@dataclass(frozen=True, eq=False)
class Replay:
    """The model as a function of one sample's image.

    Attributes:
        prepared: The call.
        call: The function to run: the model, or its plain forward.
        args: The positional inputs.
        kwargs: The keyword inputs.
        target: The target, fixed on the original output.
        record: Runs a call under hooks, as `medcam.engine.passes.record`.
        number: The number of the image that is changed.
        sample: The number of the sample.
        activation: The recorded layer of the map; None for a map of the input.
        grid: Where the cells of its map lie.
        reported: Where progress is reported.
    """

    prepared: Prepared
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: FixedTarget
    record: Callable[..., RecordedRun]
    number: int
    sample: int
    activation: Activation | None = None
    grid: LayerGrid | None = None
    reported: Reported = field(default_factory=Reported)

    @property
    def image(self) -> Tensor:
        """The image of the sample, ``[1, channels, *space]``."""
        image = without_subclass(self.prepared.images[self.number].tensor.detach())
        return image[self.sample : self.sample + 1]

    def evidence_of(self, method: Method) -> dict[str, Any]:
        """Return the evidence of this sample that a method takes, by name.

        The model runs under the caller's autocast, also if the method does not.
        """
        scores = {
            "score_of": self.score_of,
            "score_of_masked": self.score_of_masked,
            "score_without": self.score_without,
        }
        device = self.prepared.image.device.type
        by_name = functions_of(method, self.map_at, scores, self.reported, device)
        by_name["inputs"] = self.image
        if "activations" in method.evidence and self.activation is not None:
            values = self.activation.values
            by_name["activations"] = values[self.sample : self.sample + 1]
        return by_name

    def score_of(
        self, images: Float[Tensor, "images channels *space"]
    ) -> Float[Tensor, "images targets"]:
        """Return the scores of changed images of the sample."""
        return self._score(images, nullcontext())

    def score_of_masked(
        self, masks: Float[Tensor, "images *layer"]
    ) -> Float[Tensor, "images targets"]:
        """Return the scores of the image times masks of the layer's size, placed on the image."""
        if self.activation is None or self.grid is None:
            raise ValueError("a map of the input has no masks of a layer")
        image, grid = self.image, self.grid
        space = tuple(image.shape[2:])
        parts = [
            self.score_of(image * on_image(part[:, None], grid, space, space).to(image))
            for part in torch.split(masks, self._most_images)
        ]
        return torch.cat(parts)

    def score_without(self, channels: Int[Tensor, " images"]) -> Float[Tensor, "images targets"]:
        """Return the scores of the image, each without one channel of the layer's features."""
        if self.activation is None:
            raise ValueError("a map of the input has no channels of a layer")
        layer, layout = self.activation.layer, self.activation.layout
        module = self.prepared.model.get_submodule(layer)
        shape = tuple(self.activation.stored.shape[1:])
        scores = []
        for part in torch.split(channels, self._most_images):
            images = self.image.expand(len(part), *self.image.shape[1:]).clone()
            silenced = without_channels(module, layer, part, layout.kind, shape)
            scores.append(self._score(images, silenced))
        return torch.cat(scores)

    def map_at(
        self, images: Float[Tensor, "images channels *space"], method: Method
    ) -> Float[Tensor, "images targets ..."]:
        """Return a method's maps of changed images of the sample, on the layer or the input."""
        args, kwargs = self._inputs(images)
        request, target = self.prepared.request, self.target
        request = dataclasses.replace(
            request, methods=(method,), target=partial(target.score, sample=self.sample),
            window_target=target.target, of_output=not request.at_logits, check_layer=False,
            several=False, shape="input", by_sample="", progress=False,
        )  # fmt: skip
        choice = self.prepared.choice
        if self.activation is not None:
            name = self.activation.layer
            choice = LayerChoice({name: self.prepared.model.get_submodule(name)})
            request = dataclasses.replace(request, layer=name)
        prepared = dataclasses.replace(
            self.prepared, request=request, choice=choice, notices=SilentNotices(),
            chosen=self.number, images=find_images(args, kwargs, self.prepared.model),
        )  # fmt: skip
        with isolation.kept_state(self.prepared.modules):
            try:
                recorded = self.record(prepared, self.call, args, kwargs, keep_graph=False)
            except UnusedError:
                raise NoMapError(
                    "The model does not use the image that it is given, but takes it from where it "
                    "was stored, so changed images have no effect: give the model that takes the "
                    "image itself."
                ) from None
        if method.of_input:
            (item,) = recorded.assembled.maps.values()
            if item.channels is None:
                raise ValueError("a map of the input has channels")
            return item.channels
        ((layer, number),) = recorded.evidence.layers
        count = self.target.values.shape[1]
        with isolation.full_precision(self.prepared.image.device.type):
            maps = [recorded.evidence.map(method, t, (layer, number), number) for t in range(count)]
        return torch.stack(maps, 1)

    @property
    def _most_images(self) -> int:
        """The number of images that run at a time, where the method does not know their size."""
        return max(1, MOST_VALUES // max(1, self.image.numel()))

    def _score(self, images: Tensor, context: Any) -> Float[Tensor, "images targets"]:
        """Return the scores of changed images in a context that changes the model."""
        args, kwargs = self._inputs(images)
        run = partial(self.call, *args, **kwargs)
        with isolation.kept_state(self.prepared.modules), torch.no_grad(), context:
            logits = logits_of_run(
                self.prepared.request, self.prepared.image, run, batch=len(images)
            )
            return self.target.score(without_subclass(logits), self.sample)

    def _inputs(self, images: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the inputs of the model with changed images of the sample.

        Every tensor with the batch's extent along its first axis is one value for each sample.
        """
        found_images = find_images(self.args, self.kwargs, self.prepared.model)
        image = found_images[self.number].tensor
        batch, count, sample = len(image), len(images), self.sample
        images = images.to(device=image.device, dtype=image.dtype)

        def changed(tensor: Tensor) -> Tensor:
            if tensor is image:
                return images.as_subclass(type(tensor)) if type(tensor) is not Tensor else images
            if tensor.ndim and len(tensor) == batch:
                row = tensor.detach()[sample : sample + 1]
                return row.expand(count, *tensor.shape[1:]).clone()
            return tensor

        args, kwargs = map_tensors((self.args, dict(self.kwargs)), changed)
        return args, kwargs
