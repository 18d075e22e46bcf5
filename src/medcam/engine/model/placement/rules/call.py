"""One call of an operation, and the rules that most others are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from medcam.engine.model.placement.geometry import Geometry, combined
from medcam.engine.model.placement.parts import (
    Part,
    Parts,
    UnplacedError,
    axes_of,
    flat,
    merged,
    nothing,
    size_of,
)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an operation, for one image.

    Attributes:
        arguments: The arguments by their names in the schema.
        geometries: The geometry of every tensor that runs along the image, by its id.
        unknown: The ids of tensors of the image whose geometry is unknown.
        foreign: The ids of tensors that come from other images, and not from this one.
        shapes: The shapes of the results.
    """

    arguments: Mapping[str, Any]
    geometries: Mapping[int, Geometry]
    unknown: frozenset[int]
    foreign: frozenset[int]
    shapes: Sequence[tuple[int, ...]]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def of(self, name: str) -> Geometry | None:
        """Return the geometry of a tensor argument; None if it is not of the image."""
        return self.geometries.get(id(self.arguments.get(name)))

    def known(self, name: str) -> Geometry:
        """Return the geometry of a tensor argument.

        Raises:
            UnplacedError: It is not of the image.
        """
        geometry = self.of(name)
        if geometry is None:
            raise UnplacedError("the image enters through another argument")
        return geometry

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return self.shapes[0]


Rule = Callable[[Call], "Geometry | list[Geometry | None]"]


def joined(geometries: Sequence[Geometry], shape: Sequence[int]) -> Geometry:
    """Return the geometry of an elementwise operation, with broadcasting.

    Raises:
        UnplacedError: The tensors run along the image in different ways.
    """
    dims: list[Parts] = []
    for dim, size in enumerate(shape):
        choices = []
        for geometry in geometries:
            index = dim - len(shape) + len(geometry.dims)
            if index >= 0 and size_of(geometry.dims[index]) == size:
                choices.append(merged(geometry.dims[index]))
        plain = next((parts for parts in choices if any(p.inner for p in parts)), nothing(size))
        choices = [parts for parts in choices if axes_of(parts)][: 1 if size == 1 else None]
        best = max(choices, key=lambda parts: len(axes_of(parts)), default=plain)
        for other in choices:
            same = [(p.axis, p.size, p.before) for p in flat(other)] == [
                (p.axis, p.size, p.before) for p in flat(best)
            ]
            if not same and len(axes_of(other)) == len(axes_of(best)):
                raise UnplacedError("tensors of different places are joined")
        dims.append(best if len(choices) < 2 else _mean_steps(choices, best))
    return combined(geometries, dims)


def _mean_steps(choices: Sequence[Parts], best: Parts) -> Parts:
    """Return the parts of several tensors with their mean steps, which differ by rounding only."""
    alike = [parts for parts in choices if len(parts) == len(best)]
    if any(part.inner for part in best):
        return best
    return tuple(
        Part(part.size, part.axis, sum(parts[i].step for parts in alike) / len(alike))
        for i, part in enumerate(best)
    )


def elementwise(call: Call) -> Geometry:
    """Return the geometry of a result of the same places as all tensors that enter."""
    geometries = [
        call.geometries[id(value)] for value in tensors_in(call) if id(value) in call.geometries
    ]
    return joined(geometries, call.shape)


def tensors_in(call: Call) -> list[Tensor]:
    """Return the tensors among the arguments, those in lists included."""
    values = [
        value
        for argument in call.arguments.values()
        for value in (argument if isinstance(argument, (list, tuple)) else [argument])
    ]
    return [value for value in values if isinstance(value, Tensor)]


def same(name: str = "self", results: int = 1) -> Rule:
    """Return the rule of an operation whose first result lies where one argument does."""

    def rule(call: Call) -> list[Geometry | None]:
        geometry = call.known(name)
        if size_of_dims(geometry) != tuple(call.shape):
            raise UnplacedError("the shape changes")
        return [geometry, *[None] * (len(call.shapes) - 1)]

    return rule


def size_of_dims(geometry: Geometry) -> tuple[int, ...]:
    """Return the shape of a tensor."""
    return tuple(size_of(parts) for parts in geometry.dims)


def numbers_only(call: Call) -> list[Geometry | None]:
    """Rule of an operation whose result is no longer an image, such as a histogram."""
    return [None] * len(call.shapes)
