"""What is checked: a network with images, as a whole or in windows, whose maps can be made anew."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from medcam.engine.explained import logits_of_run
from medcam.engine.model import isolation, outputs
from medcam.engine.model.inputs import chosen_image, require_images
from medcam.engine.model.nested import map_tensors, without_subclass
from medcam.engine.prepare import prepare
from medcam.engine.request import Request
from medcam.engine.result import Run
from medcam.engine.run import run
from medcam.engine.target.resolution import TargetLike, reads_output
from medcam.engine.target.scores import score_of_whole_output
from medcam.engine.windows.ensemble import EnsembleMember
from medcam.engine.windows.prediction import cut, predict
from medcam.engine.windows.run import run_windows
from medcam.engine.windows.tiling import Place, Windows
from medcam.errors import InputError, MedcamWarning
from medcam.methods import Method
from medcam.trust.blocks import to_numpy

MapName = tuple[str, str | None]
"""The name of a method and of a layer; the layer is None for a map of the input."""


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of one run.

    Attributes:
        values: By method and layer, ``[batch, *space]``: where the network looks, without a sign.
        cells: By layer, the distance of its cells in voxels of the image; empty for windows.
        signed: By method and layer, the values of each input channel before their reduction,
            ``[batch, channels, *space]``, of maps of the input.
    """

    values: Mapping[MapName, Float[np.ndarray, "batch *space"]]
    cells: Mapping[str, tuple[float, ...]]
    signed: Mapping[MapName, Float[np.ndarray, "batch channels *space"]]


class Subject(Protocol):
    """A network with images."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    @property
    def images(self) -> Float[Tensor, "batch channels *space"]:
        """The images."""

    @property
    def windows_per_image(self) -> int:
        """The number of windows that an image is predicted in, with all mirrorings."""

    def with_model(self, model: nn.Module) -> Subject:
        """Return the same images with another network of the same architecture."""

    def with_images(self, images: Float[Tensor, "batch channels *space"]) -> Subject:
        """Return the same network with other images of the same shape."""

    def with_known(self, logits: Float[Tensor, "batch classes *space"]) -> Subject:
        """Return the same with the prediction, so that it need not be made again for each map."""

    def maps(self, methods: Sequence[Method], layers: Sequence[str], target: TargetLike) -> Maps:
        """Return the maps of a target; the layers may be empty for methods of the input."""

    def logits(self, target: TargetLike = None) -> Float[Tensor, "batch classes *space"]:
        """Return the logits of the images, as a target sees them."""

    def resolved_layers(self, target: TargetLike) -> list[str]:
        """Return the layer that "auto" stands for."""

    def cells(self, maps: Maps) -> Mapping[str, tuple[float, ...]]:
        """Return, by layer of the maps, the distance of its cells in voxels of the image."""


@dataclass(frozen=True, eq=False)
class WholeImages:
    """Images that a network sees at once.

    Attributes:
        model: The network.
        args: Its positional inputs.
        kwargs: Its keyword inputs.
        options: ``output=`` and ``image=`` of `medcam.explain`.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]

    @cached_property
    def images(self) -> Float[Tensor, "batch channels *space"]:
        """The image that maps lie on."""
        name = self.options.get("image")
        images = require_images(self.args, self.kwargs, self.model, named=name is not None)
        return images[chosen_image(images, name) or 0].tensor

    windows_per_image = 1

    def with_model(self, model: nn.Module) -> WholeImages:
        """Return the same images with another network."""
        return replace(self, model=model)

    def with_images(self, images: Float[Tensor, "batch channels *space"]) -> WholeImages:
        """Return the same network with other images; other inputs stay."""
        own = self.images
        args, kwargs = map_tensors(
            (self.args, dict(self.kwargs)), lambda tensor: images if tensor is own else tensor
        )
        return replace(self, args=args, kwargs=kwargs)

    def with_known(self, logits: Float[Tensor, "batch classes *space"]) -> WholeImages:
        """Return the same: maps of whole images make their prediction in passing."""
        return self

    def cells(self, maps: Maps) -> Mapping[str, tuple[float, ...]]:
        """Return the cells of each layer."""
        return maps.cells

    def maps(self, methods: Sequence[Method], layers: Sequence[str], target: TargetLike) -> Maps:
        """Return the maps of a target."""
        return _maps(self._run(methods, list(layers) or "auto", target), self.images)

    def resolved_layers(self, target: TargetLike) -> list[str]:
        """Return the layer that "auto" stands for."""
        return list(self._run([_any_layer_method()], "auto", target).layers)

    def logits(self, target: TargetLike = None) -> Float[Tensor, "batch classes *space"]:
        """Return the logits of the images, as a target sees them."""
        with torch.no_grad():
            return self.logits_with_graph(target)

    def logits_with_graph(self, target: TargetLike = None) -> Float[Tensor, "batch classes *space"]:
        """Return the logits, with the graph of the network's parameters if gradients are on."""
        request = Request.of("gcam", target=target, **self.options)
        prepared = prepare(request, self.model, self.args, self.kwargs)
        call = partial(self.model, *self.args, **self.kwargs)
        with isolation.eager(prepared.modules):
            logits = logits_of_run(request, prepared.image, call, batch=len(self.images))
        return without_subclass(logits)

    def _run(self, methods: Sequence[Method], layer: Any, target: TargetLike) -> Run:
        request = Request.of(list(methods), layer=layer, target=target, **self.options)
        return run(request, self.model, self.model, self.args, self.kwargs)


@dataclass(frozen=True, eq=False)
class InWindows:
    """A volume that a network predicts in windows, in each of several mirrorings.

    Attributes:
        model: The network.
        images: The volume, before padding.
        windows: The windows.
        flips: The mirrorings of a window: for each the spatial axes.
        output: As ``output=`` of `medcam.explain`.
        batch_size: The number of windows that run at once.
        known: The prediction that targets are resolved on; None: it is made. A check's targets do
            not depend on it, so that all networks and images may share one.
    """

    model: nn.Module
    images: Float[Tensor, "batch channels *space"]
    windows: Windows
    flips: Sequence[tuple[int, ...]] = ((),)
    output: outputs.Selector = None
    batch_size: int = 1
    known: Float[Tensor, "batch classes *space"] | None = None

    @property
    def windows_per_image(self) -> int:
        """The number of windows, with all mirrorings."""
        return len(self.windows) * len(self.flips)

    def with_model(self, model: nn.Module) -> InWindows:
        """Return the same volume with another network."""
        return replace(self, model=model)

    def with_images(self, images: Float[Tensor, "batch channels *space"]) -> InWindows:
        """Return the same network with another volume."""
        return replace(self, images=images)

    def with_known(self, logits: Float[Tensor, "batch classes *space"]) -> InWindows:
        """Return the same with the prediction."""
        return replace(self, known=logits)

    def maps(self, methods: Sequence[Method], layers: Sequence[str], target: TargetLike) -> Maps:
        """Return the stitched maps of a target."""
        request = Request.of(
            list(methods), layer=list(layers) or "auto", target=target, output=self.output
        )
        result = run_windows(
            request, self._members, len(self.flips), self.images, self.windows,
            logits=None if reads_output(target) else self.known,
            batch_size=self.batch_size, device=self.images.device, channel_weights="volume",
        )  # fmt: skip
        return _maps(result, self.images)

    def resolved_layers(self, target: TargetLike) -> list[str]:
        """Return the layer that "auto" stands for."""
        request = Request.of([_any_layer_method()], target=target, output=self.output)
        result = run_windows(
            request, self._members, len(self.flips), self.images, self.windows,
            logits=None if reads_output(target) else self.known,
            batch_size=self.batch_size, device=self.images.device,
        )  # fmt: skip
        return list(result.layers)

    def logits(self, target: TargetLike = None) -> Float[Tensor, "batch classes *space"]:
        """Return the stitched logits."""
        return predict(
            self._members(), self.windows.pad(self.images), self.windows, output=self.output,
            batch_size=self.batch_size, device=self.images.device, tick=lambda _: None,
        )  # fmt: skip

    def _members(self) -> list[EnsembleMember]:
        return [EnsembleMember(self.model, flips) for flips in self.flips]

    def cells(self, maps: Maps) -> Mapping[str, tuple[float, ...]]:
        """Return the cells of each layer, from the first window."""
        layers = list(dict.fromkeys(layer for _, layer in maps.values if layer is not None))
        if not layers:
            return {}
        member = self._members()[0]
        window = cut(self.windows.pad(self.images), [(0, self.windows.places[0])], member)
        request = Request.of(
            [_any_layer_method()],
            layer=list(layers),
            target=score_of_whole_output,
            output=self.output,
        )
        of_window = _cells(run(request, self.model, self.model, (window,), {}))
        place = self.windows.places[0]
        return {layer: _on_volume(cell, place) for layer, cell in of_window.items()}


def _on_volume(cell: tuple[float, ...], place: Place) -> tuple[float, ...]:
    """Return the cell of a window's layer on the axes of the volume; a slice is one voxel thick."""
    steps = iter(cell)
    return tuple(next(steps) if isinstance(part, slice) else 1.0 for part in place)


def _any_layer_method() -> Method:
    from medcam.methods import METHODS

    return METHODS["hirescam"]


def _maps(result: Run, images: Tensor) -> Maps:
    """Return the maps of a run, after its errors are raised.

    Raises:
        InputError: The maps are not one for each image, such as those of slices or views.
        NoMapError: The maps are not finite.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedcamWarning)
        result.notices.report()
    values: dict[MapName, NDArray[Any]] = {}
    signed: dict[MapName, NDArray[Any]] = {}
    for item in result.maps.values():
        if item.values.shape[2:] != images.shape[2:] or len(item.values) != len(images):
            raise InputError(
                f"The maps have the shape {list(item.values.shape)} for images of "
                f"{list(images.shape)}: a check needs one map for each image, so slices or views "
                "of one case, and models of several images of different extents, cannot be checked."
            )
        name = (item.method, item.layer)
        values[name] = to_numpy(item.attention()[:, 0])
        if item.channels is not None:
            signed[name] = to_numpy(item.channels[:, 0])
    return Maps(values, _cells(result), signed)


def _cells(result: Run) -> dict[str, tuple[float, ...]]:
    """Return the distance of each layer's cells in voxels."""
    return {
        item.layer: item.grid.step
        for item in result.maps.values()
        if item.layer is not None and item.grid is not None
    }
