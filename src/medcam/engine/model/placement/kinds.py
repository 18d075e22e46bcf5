"""The kind of a tensor: channels first or last, tokens, or rearranged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medcam.engine.model.placement.arrangement import Kind
from medcam.engine.model.placement.parts import Part
from medcam.engine.model.placement.samples import NotOnImageError

Leaves = Sequence[tuple[int, Part]]
"""The plain parts of a tensor, each with the number of its axis."""


def kind_of(
    leaves: Leaves,
    order: Sequence[int],
    channels: Sequence[int],
    spaces: Mapping[int, Sequence[int]],
    batch_dims: set[int],
) -> Kind:
    """Return the kind of a tensor.

    Args:
        leaves: Its parts.
        order: Their numbers in the order ``[samples, channels, *space]``.
        channels: The numbers of the parts that are channels.
        spaces: The numbers of the parts along each spatial axis, the coarsest first.
        batch_dims: The axes of the tensor that hold samples.

    Raises:
        NotOnImageError: It has no axis for channels.
    """
    of_picture = {*channels, *(number for numbers in spaces.values() for number in numbers)}
    in_order = [number for number in order if number in of_picture and leaves[number][1].size > 1]
    dims = [leaves[n][0] for numbers in spaces.values() for n in numbers if leaves[n][1].size > 1]
    if in_order == sorted(in_order) and len(set(dims)) == len(dims):
        return "channels first"
    if _is_tiled(leaves, channels, spaces, batch_dims):
        return "channels first"
    by_space = [
        {leaves[n][0] for n in numbers if leaves[n][1].size > 1} for numbers in spaces.values()
    ]
    of_channels = {leaves[n][0] for n in channels}
    shares_axis = any(a & b for i, a in enumerate(by_space) for b in by_space[i + 1 :])
    if shares_axis and set(dims) & of_channels:
        raise NotOnImageError("its output has places and channels in one axis (flattened)")
    if not of_channels or min(of_channels) < max(dims):
        return "rearranged"
    return "tokens" if shares_axis else "channels last"


def _is_tiled(
    leaves: Leaves,
    channels: Sequence[int],
    spaces: Mapping[int, Sequence[int]],
    batch_dims: set[int],
) -> bool:
    """Return whether a tensor holds tiles of the picture as samples, with channels first in each.

    Takes the arguments of `kind_of`.
    """
    cells = [leaves[numbers[-1]][0] for numbers in spaces.values() if numbers]
    coarse = {leaves[number][0] for numbers in spaces.values() for number in numbers[:-1]}
    of_channels = {leaves[number][0] for number in channels} - batch_dims
    return (
        len(cells) == len(spaces)
        and not batch_dims & set(cells)
        and cells == sorted(set(cells))
        and coarse <= batch_dims
        and max(of_channels, default=0) < min(cells)
    )
