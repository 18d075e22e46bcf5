"""Rules of chosen indices along an axis, and of circular shifts."""

from __future__ import annotations

import torch
from torch import Tensor

from medcam.engine.model.placement.geometry import Geometry, require_together, single
from medcam.engine.model.placement.parts import UnplacedError, axes_of, nothing, size_of
from medcam.engine.model.placement.rules.call import Call
from medcam.engine.model.placement.rules.views import mirrored
from medcam.engine.model.placement.slicing import chosen_of, sliced


def roll(call: Call) -> Geometry:
    """Rule of a circular shift; shifts of windows of tokens are undone when a map is read."""
    geometry = call.known("self")
    if not len(call["dims"]):
        raise UnplacedError("a circular shift of all axes")
    for shift, dim in zip(call["shifts"], call["dims"], strict=True):
        part, geometry = single(geometry, dim)
        if part is None or part.axis is None:
            continue
        if part.axis < 2:
            numbers = [(number - shift) % part.size for number in range(part.size)]
            turned, geometry = chosen_of(geometry, part, numbers)
            geometry = geometry.with_dim(dim, (turned,))
            continue
        geometry = geometry.shifted(part.axis, shift * part.step, part.size * abs(part.step))
    return geometry


def index_select(call: Call) -> Geometry:
    """Rule of chosen indices along one axis: places are known if they are evenly spaced."""
    geometry = call.known("self")
    return _indexed(geometry, call["dim"] % len(geometry.dims), call["index"])


def index(call: Call) -> Geometry:
    """Rule of indexing by one tensor of integers."""
    geometry, indices = call.known("self"), call["indices"]
    chosen = [(dim, item) for dim, item in enumerate(indices) if item is not None]
    if len(chosen) != 1 or chosen[0][1].ndim > 2:
        raise UnplacedError("indexing by several tensors")
    dim, numbers = chosen[0]
    if numbers.dtype == torch.bool:
        if numbers.ndim > 1:
            raise UnplacedError("indexing by a mask of several axes")
        numbers = numbers.nonzero()[:, 0]
    if numbers.ndim == 2:
        return _of_table(geometry, dim, numbers)
    return _indexed(geometry, dim, numbers)


def _of_table(geometry: Geometry, dim: int, numbers: Tensor) -> Geometry:
    """Return the geometry of an axis by a table of indices: windows in even steps.

    Raises:
        UnplacedError: The windows are not alike.
    """
    first = numbers[0] - numbers[0, 0]
    if not bool((numbers - numbers[:, :1] == first).all()):
        raise UnplacedError("indices of unlike windows")
    rows, columns = _indexed(geometry, dim, numbers[:, 0]), _indexed(geometry, dim, numbers[0])
    dims = [*columns.dims[:dim], rows.dims[dim], *columns.dims[dim:]]
    return columns.with_dims(dims)


def _indexed(geometry: Geometry, dim: int, chosen: Tensor) -> Geometry:
    """Return the geometry of chosen indices of an axis."""
    extent = size_of(geometry.dims[dim])
    numbers = [number % extent for number in chosen.flatten().tolist()]
    stride = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    is_even = stride != 0 and numbers == [numbers[0] + i * stride for i in range(len(numbers))]
    if not axes_of(geometry.dims[dim]):
        require_together(geometry.dims[dim])
        return geometry.with_dim(dim, nothing(len(numbers)))
    if axes_of(geometry.dims[dim]) <= {0, 1}:
        part, plain = single(geometry, dim)
        if part is not None and not is_even:
            some, plain = chosen_of(plain, part, numbers)
            return plain.with_dim(dim, (some,))
    if not is_even:
        raise UnplacedError("indices that are not evenly spaced")
    result = sliced(geometry, dim, min(numbers), len(numbers), abs(stride))
    return result if stride > 0 else mirrored(result, [dim])
