"""Parts: what an axis of a tensor runs along, also after it was reshaped.

An axis of a tensor is a sequence of parts, the first varying slowest. A part runs along one axis of
the image with a constant step, or along nothing of the image (features, heads). Reshaping regroups
parts, so tokens, windows of tokens and slices in the batch stay readable: the tokens of a 14 x 14
grid are one axis with two parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isclose, prod


class UnplacedError(Exception):
    """An operation after which the places of the cells are unknown."""


class MisplacedError(UnplacedError):
    """An operation after which the cells lie where no map can show them, whatever their shape."""


class Misplaced(str):
    """The reason why a tensor lies where no map can show it, so that its shape tells no place."""

    __slots__ = ()


def reason_of(error: UnplacedError, operation: str = "") -> str:
    """Return the reason why a place is unknown.

    Args:
        error: The error.
        operation: The name of the operation; empty to leave it out.
    """
    text = f"{error} (operation {operation!r})" if operation else str(error)
    return Misplaced(text) if isinstance(error, MisplacedError) else text


@dataclass(frozen=True)
class Part:
    """A factor of a tensor's axis.

    Attributes:
        size: The number of indices.
        axis: The axis of the image; None for a part that runs along nothing of the image.
        step: The distance between neighbours, in voxels of the image.
        before: The number of indices before the part that ``inner`` describes (a class token).
        inner: The parts inside a longer axis; empty for a plain part.
        picks: For samples or views in another order the distance of each index from index 0;
            ``step`` is then 0.
        apart: For features: whether they lie in different places, so that only the mean of these
            is known.
    """

    size: int
    axis: int | None = None
    step: float = 0.0
    before: int = 0
    inner: tuple[Part, ...] = ()
    picks: tuple[int, ...] = ()
    apart: bool = False

    @property
    def axes(self) -> frozenset[int]:
        """The axes of the image that the part runs along."""
        if self.inner:
            return axes_of(self.inner)
        return frozenset() if self.axis is None else frozenset({self.axis})


Parts = tuple[Part, ...]
"""The parts of one axis of a tensor."""


def in_order(parts: Sequence[Part], axis: int) -> list[int]:
    """Return the numbers of the parts along one axis of the image, the coarsest first."""
    numbers = [n for n, part in enumerate(parts) if part.axis == axis]
    return sorted(numbers, key=lambda n: (-abs(parts[n].step), -parts[n].size))


def axes_of(parts: Iterable[Part]) -> frozenset[int]:
    """Return the axes of the image that parts run along."""
    return frozenset().union(*(part.axes for part in parts))


def size_of(parts: Iterable[Part]) -> int:
    """Return the number of indices of parts."""
    return prod(part.size for part in parts)


def nothing(size: int) -> Parts:
    """Return an axis that runs along nothing of the image."""
    return () if size == 1 else (Part(size),)


def picked(axis: int, indices: Sequence[float]) -> Part:
    """Return the part of chosen indices of an axis, such as samples or views in another order.

    Args:
        axis: The axis of the image.
        indices: The indices on it; between two if a cell sees several.

    Raises:
        UnplacedError: They lie neither evenly nor at whole indices.

    Example:
        >>> picked(1, [0, 2, 4])
        Part(size=3, axis=1, step=2.0, before=0, inner=(), picks=(), apart=False)
        >>> picked(1, [2, 0, 1]).picks
        (0, -2, -1)
    """
    distances = tuple(index - indices[0] for index in indices)
    step = distances[1] if len(distances) > 1 else 1
    if step and all(distance == i * step for i, distance in enumerate(distances)):
        return Part(len(indices), axis, float(step))
    if any(distance % 1 for distance in distances):
        raise UnplacedError("views that lie unevenly between others")
    return Part(len(indices), axis, picks=tuple(map(int, distances)))


def distances_of(part: Part) -> list[float]:
    """Return the distance of each index of a part from index 0, in voxels."""
    return [float(d) for d in part.picks] or [i * part.step for i in range(part.size)]


def large(parts: Iterable[Part]) -> Parts:
    """Return the parts of more than one index."""
    return tuple(part for part in parts if part.size > 1)


def flat(parts: Iterable[Part]) -> list[Part]:
    """Return parts with those inside a longer axis in its place."""
    return [leaf for part in parts for leaf in (flat(part.inner) if part.inner else [part])]


def merged(parts: Parts) -> Parts:
    """Return parts with neighbours joined that run evenly along one axis of the image."""
    result: list[Part] = []
    for part in parts:
        if part.size == 1 and (
            part.axis is None or any(part.axis in p.axes for p in parts if p.size > 1)
        ):
            continue
        last = result[-1] if result else None
        if last is not None and _continues(last, part):
            result[-1] = Part(last.size * part.size, part.axis, part.step, apart=part.apart)
        else:
            result.append(part)
    return tuple(result)


def _continues(coarse: Part, fine: Part) -> bool:
    """Return whether two parts run evenly along one axis of the image, the first being coarser."""
    if coarse.inner or fine.inner or coarse.picks or fine.picks or coarse.axis != fine.axis:
        return False
    if fine.axis is None:
        return coarse.apart == fine.apart
    return isclose(coarse.step, fine.step * fine.size, rel_tol=1e-6)


def _evenly(parts: Iterable[Part]) -> list[Part]:
    """Return parts with those in one that continue each other: only so any split finds its place.

    The windows of a picture, 8 x 7 cells along an axis, can be read again as a grid of 7 x 8.
    """
    result: list[Part] = []
    for part in parts:
        if result and result[-1].size > 1 and part.size > 1 and _continues(result[-1], part):
            size = result[-1].size * part.size
            result[-1] = Part(size, part.axis, part.step, apart=part.apart)
        else:
            result.append(part)
    return result


def regrouped(dims: Sequence[Parts], shape: Sequence[int]) -> tuple[Parts, ...]:
    """Return the axes of a tensor after a reshape.

    Raises:
        UnplacedError: A part is divided unevenly.

    Example:
        >>> axes = regrouped([(Part(6, 2, 1.0),), (Part(4, 3, 1.0),)], (2, 12))
        >>> [[part.size for part in parts] for parts in axes]
        [[2], [3, 4]]
    """
    waiting = _evenly(part for parts in dims for part in parts)
    result: list[Parts] = []
    for size in shape:
        taken: list[Part] = []
        missing = size
        while waiting and (missing > 1 or waiting[0].size == 1):
            part = waiting[0]
            if part.size == 1 and missing == 1 and taken and size > 1:
                break  # a later axis of extent 1 takes it
            if missing % part.size == 0:
                taken.append(waiting.pop(0))
                missing //= part.size
            elif part.size % missing == 0 and not part.inner and not part.picks:
                rest = part.size // missing
                taken.append(replace(part, size=missing, step=part.step * rest))
                waiting[0] = replace(part, size=rest)
                missing = 1
            else:
                raise UnplacedError("a reshape divides an axis of the image unevenly")
            if missing == 1 and size == 1:
                break
        if missing != 1:
            raise UnplacedError("a reshape changes the number of values")
        result.append(tuple(taken))
    if waiting and result:
        result[-1] = (*result[-1], *waiting)
    return tuple(result)
