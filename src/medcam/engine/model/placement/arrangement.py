"""Arrangements: how a tensor becomes ``[samples, channels, *space]``, and its map the image's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

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
        evidence: The extents ``[samples, channels, *space]``.
        batch: The number of samples of the image.
        slices: The image's axes that are samples here, and their extents.
        space_axes: The image's axes of the evidence's spatial axes.
        map_axes: The image's axes of the map.
        rolls: The shifts that undo circular shifts, for each spatial axis.
        slice_rolls: The same for the samples and for each axis of ``slices``.
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
        whole_batch: The number of samples of the image; ``batch`` is smaller if the network takes
            the samples one after the other.
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
    seen: tuple[tuple[float, float], ...]
    space: tuple[int, ...]
    is_plain: bool
    kind: Kind
    absent: tuple[int, ...]
    is_beside: bool
    whole_batch: int

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
        if not self.slices and self.space_axes == self.map_axes and not any(self.slice_rolls):
            return values
        axes = [*(axis for axis, _ in self.slices), *self.space_axes]
        shape = [self.batch, *(count for _, count in self.slices), *values.shape[1:]]
        values = values.reshape(shape)
        if any(self.slice_rolls):
            values = values.roll(self.slice_rolls, tuple(range(len(self.slice_rolls))))
        order = sorted(range(len(axes)), key=lambda number: axes[number])
        return values.permute(0, *(number + 1 for number in order))

    @property
    def map_space(self) -> tuple[int, ...]:
        """The extents of the map."""
        extents = dict(zip(self.space_axes, self.evidence[2:], strict=True))
        extents.update(self.slices)
        return tuple(extents.get(axis, 1) for axis in self.map_axes)

    def as_bag(self) -> Arrangement:
        """Return the arrangement for an input whose first axis is slices of one case."""
        seen = limited(
            [self.seen[axis] for axis in (0, *self.map_axes)],
            [self.space[axis] for axis in (0, *self.map_axes)],
        )
        first = LayerGrid((0.0, *self.grid.start), (1.0, *self.grid.step), seen=seen)
        return replace(
            self, batch=1, slices=((0, self.batch), *self.slices), grid=first,
            map_axes=(0, *self.map_axes), slice_rolls=(0, *self.slice_rolls),
        )  # fmt: skip


def limited(
    seen: Sequence[tuple[float, float]], space: Sequence[int]
) -> tuple[tuple[float, float], ...]:
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


def stack_arrangements(runs: Sequence[Arrangement]) -> tuple[Arrangement, list[float]] | None:
    """Return the arrangement of runs that see one slice, view or sample each, and their positions.

    Returns:
        None if the runs do not lie evenly along one axis that they do not run along themselves.
    """
    first = runs[0]
    if any((run.evidence, run.map_axes) != (first.evidence, first.map_axes) for run in runs):
        return None
    axis = _moving_axis(runs)
    if axis is None:
        return None
    positions = [run.centre[axis] for run in runs]
    low, high = min(positions), max(positions)
    step = (high - low) / (len(runs) - 1)
    if any(abs(p - low - i * step) > 0.01 * step for i, p in enumerate(sorted(positions))):
        return None
    if axis == 0:
        held = first.batch * len(runs)
        return (replace(first, batch=held), positions) if step == first.batch else None
    seen = tuple(
        (min(low for low, _ in borders), max(high for _, high in borders))
        for borders in zip(*(run.seen for run in runs), strict=True)
    )
    spaces = [
        (a, n) for a, n in zip(first.space_axes, first.evidence[2:], strict=True) if a != axis
    ]
    grids = {
        a: pair for a, *pair in zip(first.map_axes, first.grid.start, first.grid.step, strict=True)
    }
    grids[axis] = [low, step]
    # views that are the input's channels become an axis; an axis of colours is none of the map
    map_axes = first.map_axes if axis > 1 else (1, *(a for a, _ in spaces if a not in first.absent))
    spaces = [(a, n) for a, n in spaces if a in map_axes]
    if sum(n > 1 for _, n in spaces) < MIN_PICTURE_AXES:
        return None
    arrangement = replace(
        first,
        evidence=(*first.evidence[:2], *(n for _, n in spaces)),
        slices=(*first.slices, (axis, len(runs))),
        space_axes=tuple(a for a, _ in spaces),
        map_axes=map_axes,
        rolls=(0,) * len(spaces) if not any(first.rolls) else first.rolls,
        slice_rolls=(*first.slice_rolls, 0),
        seen=seen,
        grid=LayerGrid(
            tuple(grids[a][0] for a in map_axes),
            tuple(grids[a][1] for a in map_axes),
            seen=limited([seen[a] for a in map_axes], [first.space[a] for a in map_axes]),
        ),
        is_plain=False,
        absent=tuple(a for a in first.absent if a in map_axes and a != axis),
    )
    return arrangement, positions


def _moving_axis(runs: Sequence[Arrangement]) -> int | None:
    """Return the only axis of the image along which the runs' positions differ."""
    centres = [run.centre for run in runs]
    moving = [axis for axis, along in enumerate(zip(*centres, strict=True)) if len(set(along)) > 1]
    if len(moving) != 1:
        return None
    axis, first = moving[0], runs[0]
    apart = len({centre[axis] for centre in centres}) == len(runs)
    if axis > 1:
        return axis if apart and axis in first.absent else None
    return axis if apart and (axis == 1 or first.batch < first.whole_batch) else None
