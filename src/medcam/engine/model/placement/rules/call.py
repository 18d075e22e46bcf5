"""One call of an operation, and the rules that most others are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from medcam.engine.model.placement.combining import joined
from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.parts import UnplacedError, size_of


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
