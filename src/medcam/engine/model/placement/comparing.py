"""Compare where tensors lie on the image, and in which directions they run."""

from __future__ import annotations

from collections.abc import Sequence

from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.parts import flat


def lie_apart(first: Geometry, second: Geometry, *, but: Sequence[int] = ()) -> bool:
    """Return whether the cells of two tensors lie in different places, or run in other directions.

    Circular shifts count as places, too.

    Args:
        first: The geometry of one tensor.
        second: That of the other.
        but: Axes of the image on which they may differ.
    """
    for axis in range(len(first.start)):
        steps = [_steps(geometry, axis) for geometry in (first, second)]
        if axis > 1 and [step < 0 for step in steps[0]] != [step < 0 for step in steps[1]]:
            return True
        if axis > 1 and first.rolled[axis] != second.rolled[axis]:
            return True
        if axis in but:
            continue
        near = min([abs(step) for step in steps[0] + steps[1]], default=1.0) / 2
        if abs(first.start[axis] - second.start[axis]) > near:
            return True
    return False


def far_apart(first: Geometry, second: Geometry) -> bool:
    """Return whether the cells of two tensors lie in different parts of the image."""
    for axis in range(2, len(first.start)):
        low, high = first.interval(axis)
        if abs(first.start[axis] - second.start[axis]) > max(1.0, (high - low) / 4):
            return True
    return False


def run_against(first: Geometry, second: Geometry) -> bool:
    """Return whether the cells of two tensors run in other directions along the image."""
    return any(
        is_mirrored(first, axis) != is_mirrored(second, axis) for axis in range(2, len(first.start))
    )


def moving_axes(starts: Sequence[tuple[float, ...]]) -> list[int]:
    """Return the axes of the image along which tensors lie at different places."""
    along = enumerate(zip(*starts, strict=True))
    return [axis for axis, values in along if max(values) - min(values) > 1e-6]


def order_of(geometry: Geometry, axis: int) -> tuple[object, ...]:
    """Return in which order a tensor holds samples or views."""
    parts = flat(part for dim in geometry.dims for part in dim)
    return tuple((p.step, p.picks) for p in parts if p.axis == axis and p.size > 1)


def _steps(geometry: Geometry, axis: int) -> list[float]:
    """Return the steps of the parts along an axis of the image."""
    parts = flat(part for dim in geometry.dims for part in dim)
    return [part.step for part in parts if part.axis == axis and part.size > 1]


def is_mirrored(geometry: Geometry, axis: int) -> bool:
    """Return whether a tensor runs against the image along one of its axes."""
    return any(step < 0 for step in _steps(geometry, axis))
