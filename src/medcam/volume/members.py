"""What a prediction is the mean of: one network, or several, each in one or several mirrorings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from torch import nn


@dataclass(frozen=True, eq=False)
class Member:
    """One network in one mirroring.

    Attributes:
        model: The network.
        flips: The spatial axes of a window that are mirrored before it and back after it.
        number: The network's number; the mirrorings of one network share it.
    """

    model: nn.Module
    flips: tuple[int, ...] = ()
    number: int = 0


Members = Callable[[], Iterable[Member]]
"""Gives the members, one after the other: folds of one architecture may share the module, whose
parameters are then exchanged in between."""


def mirrored(models: Iterable[Any], axes: Sequence[int]) -> Iterator[Member]:
    """Each network in every combination of mirrored axes, the plain one first."""
    for number, model in enumerate(models):
        for flips in mirrorings(axes):
            yield Member(model, flips, number)


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of axes, the empty one first.

    >>> mirrorings([0, 2])
    [(), (0,), (2,), (0, 2)]
    """
    return [chosen for n in range(len(axes) + 1) for chosen in combinations(axes, n)]
