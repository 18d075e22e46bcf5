"""Ensembles: a prediction is the mean over one or more networks, each in one or more mirrorings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from medcam.errors import InputError


@dataclass(frozen=True, eq=False)
class EnsembleMember:
    """One network in one mirroring.

    Attributes:
        model: The network.
        flips: The spatial axes of a window that are mirrored before the network and back after it.
        number: The network's number; the mirrorings of one network share it.
    """

    model: nn.Module
    flips: tuple[int, ...] = ()
    number: int = 0

    def device(self, default: torch.device) -> torch.device:
        """Return the network's device; ``default`` for a network without parameters."""
        parameter = next(self.model.parameters(), None)
        return default if parameter is None else parameter.device

    def mirror(self, values: Tensor) -> Tensor:
        """Return windows ``[windows, channels, *roi]`` mirrored; a second call undoes it."""
        return values.flip([axis + 2 for axis in self.flips]) if self.flips else values


Members = Callable[[], Iterable[EnsembleMember]]
"""Yield members one by one; folds may share a module whose weights are swapped in between."""


def mirrored(models: Iterable[Any], axes: Sequence[int]) -> Iterator[EnsembleMember]:
    """Yield each network in every combination of mirrored axes, the unmirrored one first."""
    for number, model in enumerate(models):
        for flips in mirrorings(axes):
            yield EnsembleMember(model, flips, number)


def checked_axes(mirror_axes: Sequence[int] | int, rank: int) -> list[int]:
    """Return the axes of ``mirror_axes=``, each once, counted from the first.

    Raises:
        InputError: There is no such spatial axis.

    Example:
        >>> checked_axes([-1, 2, 0], 3)
        [0, 2]
    """
    listed = [mirror_axes] if isinstance(mirror_axes, int) else list(mirror_axes)
    if any(not -rank <= axis < rank for axis in listed):
        raise InputError(f"mirror_axes={mirror_axes!r}: the spatial axes are 0 to {rank - 1}.")
    return sorted({axis % rank for axis in listed})


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return every combination of axes, the empty one first.

    Example:
        >>> mirrorings([0, 2])
        [(), (0,), (2,), (0, 2)]
    """
    return [flips for n in range(len(axes) + 1) for flips in combinations(axes, n)]
