"""Arrangements: how a tensor becomes ``[samples, channels, *space]``, and its map the image's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from torch import Tensor

from medcam.engine.model.placement.geometry import Borders
from medcam.engine.model.placement.samples import Held
from medcam.maps import LayerGrid

MIN_PICTURE_AXES = 2
"""The number of axes that slices or views in the batch need besides their own."""


Kind = Literal["channels first", "channels last", "tokens", "rearranged"]
"""The kinds of tensors, see `Arrangement`."""


@dataclass(frozen=True)
class Arrangement:
    """How a tensor becomes ``[samples, channels, *space]``, and its map one on the image.

    Slices or views that the network takes as samples (in its batch) stay samples here, and become
    an axis of the map.

    Attributes:
        split: The extents of the tensor's parts, to which it is reshaped.
        crops: For each of these axes what is kept of it: first index and length.
        inner: The extents after the crops, with the parts inside.
        order: The permutation of these axes.
        evidence: The extents ``[samples, channels, *space]``, of all runs if there are several.
        batch: The number of samples of the image.
        slices: The image's axes that are samples here, and their extents. The tiles of a picture
            are samples, too, while ``space_axes`` are the axes of their cells.
        space_axes: The image's axes of the evidence's spatial axes.
        map_axes: The image's axes of the map.
        rolls: The shifts that undo circular shifts, for each spatial axis.
        slice_rolls: The same for each axis of ``slices``.
        grid: Where the map's cells lie on the image.
        centre: The position of the first cell on every axis of the image, in voxels, those that
            the tensor does not run along included.
        seen: The borders of what it can depend on, on every axis of the image, in voxels.
        space: The extents of the image, those of samples and channels included.
        is_plain: Whether the tensor is the evidence as it is.
        kind: "channels first", "channels last", "tokens" if axes of the image share one of the
            tensor before the channels, or "rearranged".
        absent: The map's axes that the tensor does not run along: it is one cell there.
        is_beside: Whether the tensor also holds features of other images, beside these.
        held: The samples of the image that the tensor holds, and its views, if the map has views.
        view_width: The number of views, or of the input's channels, that a cell sees.
    """

    split: tuple[int, ...]
    crops: tuple[tuple[int, int], ...]
    inner: tuple[int, ...]
    order: tuple[int, ...]
    evidence: tuple[int, ...]
    batch: int
    slices: tuple[tuple[int, int], ...]
    space_axes: tuple[int, ...]
    map_axes: tuple[int, ...]
    rolls: tuple[int, ...]
    slice_rolls: tuple[int, ...]
    grid: LayerGrid
    centre: tuple[float, ...]
    seen: Borders
    space: tuple[int, ...]
    is_plain: bool
    kind: Kind
    absent: tuple[int, ...]
    is_beside: bool
    held: tuple[Held, ...]
    view_width: float

    def of(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the layer's shape as ``[samples, channels, *space]``."""
        if self.is_plain:
            return tensor
        values = tensor.reshape(self.split)
        for axis, (low, length) in enumerate(self.crops):
            if length != values.shape[axis]:
                values = values.narrow(axis, low, length)
        values = values.reshape(self.inner).permute(self.order).reshape(self.evidence)
        if any(self.rolls):
            values = values.roll(self.rolls, tuple(range(2, values.ndim)))
        return values

    def map_of(self, values: Tensor) -> Tensor:
        """Return a map of the evidence, ``[samples, *space]``, as ``[batch, *map]``."""
        is_whole = all(
            held.cells(self.space[held.axis]) == list(range(len(held.places))) for held in self.held
        )
        if is_whole and not self.slices and self.space_axes == self.map_axes:
            return values
        axes = [*(axis for axis, _ in self.slices), *self.space_axes]
        values = values.reshape(self.batch, *(n for _, n in self.slices), *values.shape[1:])
        if any(self.slice_rolls):
            values = values.roll(self.slice_rolls, tuple(range(1, 1 + len(self.slice_rolls))))
        # tiles come before their cells, as sorting is stable
        order = sorted(range(len(axes)), key=lambda number: axes[number])
        values = values.permute(0, *(number + 1 for number in order))
        present = sorted(set(axes))
        extents = [
            prod(values.shape[1 + n] for n, number in enumerate(order) if axes[number] == axis)
            for axis in present
        ]
        values = values.reshape(len(values), *extents)
        for held in self.held:
            if held.axis in self.map_axes or held.axis == 0:
                dim = present.index(held.axis) + 1 if held.axis in present else 0
                values = held.place(values, dim, self.space[held.axis])
        return values

    @property
    def has_other_tokens(self) -> bool:
        """Whether the tensor also holds tokens that are no part of the picture: a class token."""
        return tuple(length for _, length in self.crops) != self.split

    def of_samples(self, flags: Tensor) -> Tensor:
        """Return what holds for each sample of the evidence, ``[samples]``, for each of the map.

        A sample with several slices or views is flagged if all of them are.
        """
        flags = flags.reshape(self.batch, -1).all(1)
        is_bag = 0 in self.map_axes
        return flags if is_bag else self.held[0].place(flags, 0, self.space[0])

    @property
    def map_space(self) -> tuple[int, ...]:
        """The extents of the map."""
        extents = dict.fromkeys(self.map_axes, 1)
        for axis, extent in (*zip(self.space_axes, self.evidence[2:], strict=True), *self.slices):
            extents[axis] = extents.get(axis, 1) * extent
        extents.update({h.axis: self.space[h.axis] for h in self.held if h.axis in extents})
        return tuple(extents[axis] for axis in self.map_axes)

    def missing_samples(self, *, is_bag: bool) -> str:
        """Return why there is no map of each sample; empty if there is.

        Args:
            is_bag: Whether the samples are slices or views of one case: some may be unused.
        """
        if is_bag or -1 not in self.held[0].cells(self.space[0]):
            return ""
        return f"its output holds {self.batch} of the {self.space[0]} samples of the batch"

    def as_bag(self) -> Arrangement:
        """Return the arrangement for an input whose first axis is slices of one case."""
        seen = limited(
            [(-0.5, self.space[0] - 0.5), *(self.seen[axis] for axis in self.map_axes)],
            [self.space[axis] for axis in (0, *self.map_axes)],
        )
        first = LayerGrid((0.0, *self.grid.start), (1.0, *self.grid.step), seen=seen)
        return replace(
            self, batch=1, slices=((0, self.batch), *self.slices), grid=first,
            map_axes=(0, *self.map_axes), slice_rolls=(0, *self.slice_rolls),
        )  # fmt: skip


def limited(seen: Sequence[tuple[float, float]], space: Sequence[int]) -> Borders:
    """Return the borders of what a layer can depend on; empty if that is all of the image.

    Args:
        seen: The borders on each axis, in voxels.
        space: The extents of the image.
    """
    whole = [(-0.5, size - 0.5) for size in space]
    inside = [
        low > first or high < last for (low, high), (first, last) in zip(seen, whole, strict=True)
    ]
    return tuple(seen) if any(inside) else ()
