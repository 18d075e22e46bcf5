"""The places of layers in one call of a model: traced in the first call, then remembered."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from medcam.engine.model.layouts import Layout, inferred_layout
from medcam.engine.model.nested import describe, tensors
from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.parts import Misplaced
from medcam.engine.model.placement.reading import arrangement_of
from medcam.engine.model.placement.rules.apply import Origins
from medcam.engine.model.placement.samples import NotOnImageError, holds_samples
from medcam.engine.model.placement.tracer import ANY_IMAGE, Tracer


@dataclass(frozen=True, eq=False)
class PlacedTensor:
    """What is known of one tensor of one run of a layer.

    Attributes:
        shape: Its shape.
        origins: The images that it comes from, by number, with its geometry on each or the reason
            why that is unknown. None if it was not traced.
        views: The axes of a map of an image of views, by its number.
    """

    shape: tuple[int, ...]
    origins: Origins | None
    views: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    _read: dict[int, Layout | str] = field(default_factory=dict)

    def layout(self, image: int, shape: Sequence[int], module: nn.Module) -> Layout | str:
        """Return the tensor's layout on an image, or the reason why there is none.

        Args:
            image: The number of the image.
            shape: The image's shape.
            module: The layer.
        """
        if image not in self._read:
            self._read[image] = self._layout(image, shape, module)
        return self._read[image]

    def _layout(self, image: int, shape: Sequence[int], module: nn.Module) -> Layout | str:
        origin = (self.origins or {}).get(image) or (self.origins or {}).get(ANY_IMAGE)
        if isinstance(origin, Geometry):
            try:
                return Layout.of_arrangement(arrangement_of(origin, shape, self.views.get(image)))
            except NotOnImageError as error:
                return str(error)
        if isinstance(origin, Misplaced):
            return origin
        reason = origin or "the model took another way than in the call that was followed"
        layout = inferred_layout(self.shape, shape[0], shape[2:], reason, module=module)
        if layout is None:
            return (
                f"its output is a tensor of shape {list(self.shape)}, whose place on the input "
                f"{tuple(shape[2:])} is unknown: {reason}"
            )
        return "its output is a single voxel" if max(layout.space) == 1 else layout


@dataclass(frozen=True, eq=False)
class MainTensor:
    """The tensor of a layer's output that maps are made of.

    Attributes:
        tensor: The tensor.
        path: Its path in the output.
        image: The number of the image that it lies on.
        images: The numbers of all images that have entered it.
        layout: How to read it.
    """

    tensor: Tensor
    path: str
    image: int
    images: tuple[int, ...]
    layout: Layout


@dataclass(eq=False)
class _Memory:
    """What was traced in the first call with inputs of certain shapes.

    Attributes:
        layers: For each layer the tensors of its outputs, for each of its runs.
        batched: For each tensor of the output, whether its first axis is the batch; None if that is
            unknown.
        is_complete: Whether every layer was recorded, for the automatic choice.
        views: The axes of a map of an image whose channels are views, by the image's number.
    """

    layers: dict[str, list[dict[str, PlacedTensor]]] = field(default_factory=dict)
    batched: dict[str, bool | None] = field(default_factory=dict)
    is_complete: bool = False
    views: dict[int, tuple[int, ...]] = field(default_factory=dict)


_MAX_SHAPES = 16
"""The number of input shapes, at most, for which a model's places are remembered."""

_memories: weakref.WeakKeyDictionary[nn.Module, dict[Any, _Memory]] = weakref.WeakKeyDictionary()


class Placements:
    """The places of layers in one call.

    Args:
        model: The model.
        images: The images among its inputs.
        signature: What tells calls of other inputs from this one: their structure and shapes.
        layers: The names of the layers that are recorded; None if any may be.
        originals: The caller's own images, which a model may use instead of what it is given.
        others: All inputs, of which other tensors may steer the model.
        names: The names of the images.

    Attributes:
        traced: Whether the places are traced in this call.
        is_outdated: Whether the model took another way than in the call that was traced.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Sequence[Tensor],
        signature: object,
        layers: Sequence[str] | None,
        *,
        originals: Sequence[Tensor] = (),
        others: object = (),
        names: Sequence[object] = (),
    ) -> None:
        self._images = images
        self._names = names or range(len(images))
        memories = _memories.setdefault(model, {})
        memory = memories.get(signature)
        known = memory is not None and (
            memory.is_complete if layers is None else set(layers) <= set(memory.layers)
        )
        self._tracer = None if known else Tracer(images, originals, [t for _, t in tensors(others)])
        self.traced = not known
        self._memory = memory if known and memory is not None else _Memory()
        self._memory.is_complete |= layers is None
        for layer in layers or ():  # one that does not run is known, too
            self._memory.layers.setdefault(layer, [])
        self.is_outdated = False
        self._runs: dict[str, int] = {}
        self._keep = (memories, signature)

    def tracing(self, modules: Iterable[nn.Module]) -> AbstractContextManager[Any]:
        """Return the context in which the model runs.

        Args:
            modules: All modules of the model.
        """
        return nullcontext() if self._tracer is None else self._tracer.following(modules)

    def record(self, layer: str, output: Any) -> Mapping[str, PlacedTensor]:
        """Return the tensors of a layer's output in one run, by their path."""
        run = self._runs[layer] = self._runs.get(layer, -1) + 1
        runs = self._memory.layers.setdefault(layer, [])
        if self._tracer is not None:
            views = self._tracer.entries.early
            placed = {
                path: PlacedTensor(tuple(tensor.shape), self._tracer.origins(tensor), views)
                for path, tensor in tensors(output)
            }
            runs.append(placed)
            return placed
        if run < len(runs):
            return runs[run]
        return {}

    def main_tensor(
        self, layer: str, output: Any, chosen: int | None, module: nn.Module
    ) -> list[MainTensor] | str:
        """Return the first tensor of a layer's output that lies on an image.

        Of a tensor that several images have entered, the first image counts; if it holds the
        features of several images beside each other, each counts. Tuples (hidden state, attention
        weights) and dicts are searched, too.

        Args:
            layer: The layer's name.
            output: What it returned.
            chosen: The number of the only image that counts; None for all.
            module: The layer.

        Returns:
            The tensor, once for each image; or the reason why there is none.
        """
        placed = self.record(layer, output)
        reason = ""
        for path, tensor in tensors(output):
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            item = placed.get(path)
            if item is None or item.shape != tuple(tensor.shape):
                item = PlacedTensor(tuple(tensor.shape), None)
                self.is_outdated = True  # the model took another way than the first time
            numbers = self._images_of(item, chosen)
            if not numbers:
                reason = reason or self._elsewhere(item, tensor, chosen)
            mains: list[MainTensor] = []
            for number in numbers:
                layout = item.layout(number, self._images[number].shape, module)
                if isinstance(layout, str):
                    reason = reason or layout
                elif not mains or (layout.is_beside and mains[0].layout.is_beside):
                    seen = (number,) if layout.is_beside else tuple(numbers)
                    mains.append(MainTensor(tensor, path, number, seen, layout))
            if mains:
                return mains
        return reason or f"its output is {describe(output)}, which is no image"

    def _images_of(self, item: PlacedTensor, chosen: int | None) -> list[int]:
        """Return the images that a tensor may lie on, those with a known geometry first."""
        origins = item.origins
        if origins is None or ANY_IMAGE in origins:
            return [0 if chosen is None else chosen]
        known = [number for number, origin in origins.items() if isinstance(origin, Geometry)]
        unknown = [number for number in origins if number not in known]
        return [n for n in (*sorted(known), *sorted(unknown)) if chosen in (None, n)]

    def _elsewhere(self, item: PlacedTensor, tensor: Tensor, chosen: int | None) -> str:
        """Return the reason for a tensor that comes from no image, or from another one."""
        if chosen is not None and item.origins:
            return f"it does not depend on the image {self._names[chosen]!r} (image=)"
        return (
            f"its output is a tensor of shape {list(tensor.shape)} that has no place on the input"
        )

    def record_output(self, output: Any) -> None:
        """Record of each tensor of the model's output whether its first axis is the batch."""
        if self._tracer is None:
            return
        for path, tensor in tensors(output):
            known = [
                holds_samples(item, len(self._images[number]))
                for number, item in self._tracer.origins(tensor).items()
                if isinstance(item, Geometry)
            ]
            is_clear = [value for value in known if value is not None]
            self._memory.batched[path] = any(is_clear) if is_clear else None

    def map_axes(self, *, is_bag: bool) -> list[tuple[int, ...]]:
        """Return for each image the axes of a map of it.

        They are the spatial axes; before them that of the slices of a bag, or of views.

        Args:
            is_bag: Whether the first axis of the images is slices or views of one case.
        """
        first = (0,) if is_bag else ()
        return [
            (*first, *range(2, image.ndim)) if is_bag or number not in self._memory.views
            else self._memory.views[number]
            for number, image in enumerate(self._images)
        ]  # fmt: skip

    def is_bag(self, output: Any, batch: int) -> bool:
        """Return whether the input's first axis is slices or views of one case.

        Then no tensor of the output holds its samples. False if that cannot be seen.

        Args:
            output: The model's output.
            batch: The extent of the input's first axis.
        """
        known = [self._memory.batched.get(path) for path, _ in tensors(output)]
        return batch > 1 and False in known and True not in known

    def finish(self) -> None:
        """Remember what was traced for later calls; forget it if the model took another way."""
        memories, signature = self._keep
        if self._tracer is None:
            if self.is_outdated:
                memories.pop(signature, None)
            return
        self._memory.views = self._tracer.entries.views
        follows_data = self._tracer.steering.follows_data
        self._tracer = None
        if follows_data:  # the next image may lead another way, with the same shapes
            memories.pop(signature, None)
            return
        earlier = memories.get(signature)
        if earlier is not None:
            self._memory.layers = {**earlier.layers, **self._memory.layers}
            self._memory.is_complete |= earlier.is_complete
        while len(memories) >= _MAX_SHAPES:
            memories.pop(next(iter(memories)))
        memories[signature] = self._memory
