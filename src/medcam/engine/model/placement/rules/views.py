"""Rules of operations that rearrange, cut or repeat a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medcam.engine.model.placement.geometry import Geometry, single
from medcam.engine.model.placement.parts import (
    Part,
    Parts,
    UnplacedError,
    flat,
    merged,
    nothing,
    regrouped,
    size_of,
)
from medcam.engine.model.placement.rules.call import Call
from medcam.engine.model.placement.slicing import chosen_of, selected, sliced


def reshape(call: Call) -> Geometry:
    """Rule of views and reshapes."""
    geometry = call.known("self")
    return geometry.with_dims(regrouped(geometry.dims, call.shape))


def restrided(call: Call) -> Geometry:
    """Rule of ``as_strided`` where it rewrites the strides of axes of extent 1 only."""
    geometry = call.known("self")
    strides = [s for s, size in zip(call["stride"], call.shape, strict=True) if size > 1]
    is_same = tuple(size_of(parts) for parts in geometry.dims) == tuple(call.shape)
    if not is_same or call["storage_offset"] or strides != sorted(strides, reverse=True):
        raise UnplacedError("values are read in another order")
    return geometry


def permute(call: Call) -> Geometry:
    """Rule of a permutation of axes."""
    geometry = call.known("self")
    return geometry.with_dims(geometry.dims[dim] for dim in call["dims"])


def transpose(call: Call) -> Geometry:
    """Rule of the exchange of two axes."""
    geometry = call.known("self")
    dims = list(geometry.dims)
    if len(dims) > 1:
        first, second = call.arguments.get("dim0", 0), call.arguments.get("dim1", 1)
        dims[first], dims[second] = dims[second], dims[first]
    return geometry.with_dims(dims)


def squeeze(call: Call) -> Geometry:
    """Rule of the removal of axes of extent 1."""
    geometry = call.known("self")
    rank = len(geometry.dims)
    chosen = call.arguments.get("dim", range(rank))
    chosen = [chosen] if isinstance(chosen, int) else list(chosen)
    removed = {dim % rank for dim in chosen if size_of(geometry.dims[dim]) == 1}
    return geometry.with_dims(p for dim, p in enumerate(geometry.dims) if dim not in removed)


def unsqueeze(call: Call) -> Geometry:
    """Rule of a new axis of extent 1."""
    geometry = call.known("self")
    dims = list(geometry.dims)
    dims.insert(call["dim"] % (len(dims) + 1), ())
    return geometry.with_dims(dims)


def expand(call: Call) -> Geometry:
    """Rule of repetition along axes of extent 1."""
    geometry = call.known("self")
    shape = call.shape
    new = len(shape) - len(geometry.dims)
    dims = [nothing(size) for size in shape[:new]]
    for parts, size in zip(geometry.dims, shape[new:], strict=True):
        dims.append(parts if size_of(parts) == size else nothing(size))
    return geometry.with_dims(dims)


def repeat(call: Call) -> Geometry:
    """Rule of repetition along whole axes."""
    geometry = call.known("self")
    times = list(call["repeats"])
    new = len(times) - len(geometry.dims)
    dims = [nothing(count) for count in times[:new]]
    for parts, count in zip(geometry.dims, times[new:], strict=True):
        dims.append((*nothing(count), *parts))
    return geometry.with_dims(dims)


def slicing(call: Call) -> Geometry:
    """Rule of a slice along one axis."""
    geometry, dim = call.known("self"), call["dim"]
    extent = size_of(geometry.dims[dim])
    start = call["start"] or 0
    low = min(max(start + extent if start < 0 else start, 0), extent)
    return sliced(geometry, dim, low, call.shape[dim], call["step"])


def select(call: Call) -> Geometry:
    """Rule of one index along an axis."""
    geometry = call.known("self")
    dim = call["dim"] % len(geometry.dims)
    index = call["index"]
    if index < 0:
        index += size_of(geometry.dims[dim])
    return selected(geometry, dim, index)


def split(call: Call) -> list[Geometry | None]:
    """Rule of splits and chunks along one axis."""
    geometry = call.known("self")
    dim = call["dim"] % len(geometry.dims)
    results: list[Geometry | None] = []
    low = 0
    for shape in call.shapes:
        results.append(sliced(geometry, dim, low, shape[dim]))
        low += shape[dim]
    return results


def unbind(call: Call) -> list[Geometry | None]:
    """Rule of all indices of one axis."""
    geometry = call.known("self")
    dim = call["dim"] % len(geometry.dims)
    return [selected(geometry, dim, index) for index in range(len(call.shapes))]


def flip(call: Call) -> Geometry:
    """Rule of mirrored axes."""
    return mirrored(call.known("self"), call["dims"])


def mirrored(geometry: Geometry, dims: Sequence[int]) -> Geometry:
    """Return the geometry after axes of the tensor have been mirrored."""
    for number in dims:
        dim = number % len(geometry.dims)
        part, geometry = single(geometry, dim)
        if part is not None and part.axis is not None:
            if part.picks:
                turned, geometry = chosen_of(geometry, part, range(part.size)[::-1])
                geometry = geometry.with_dim(dim, (turned,))
                continue
            geometry = geometry.moved(part.axis, (part.size - 1) * part.step)
            geometry = geometry.with_dim(dim, (replace(part, step=-part.step),))
    return geometry


def rot90(call: Call) -> Geometry:
    """Rule of rotations by quarters of a circle: two axes mirrored, or one and exchanged."""
    geometry = call.known("self")
    first, second = (dim % len(geometry.dims) for dim in call["dims"])
    quarters = call["k"] % 4
    if quarters % 2 == 0:
        return mirrored(geometry, [first, second] if quarters else [])
    geometry = mirrored(geometry, [second if quarters == 1 else first])
    dims = list(geometry.dims)
    dims[first], dims[second] = dims[second], dims[first]
    return geometry.with_dims(dims)


def unfold(call: Call) -> Geometry:
    """Rule of sliding windows along one axis (``Tensor.unfold``)."""
    geometry = call.known("self")
    dim = call["dimension"] % len(geometry.dims)
    part, geometry = single(geometry, dim)
    if part is None or part.axis is None:
        return geometry.with_dims(
            [*geometry.with_dim(dim, nothing(call.shape[dim])).dims, nothing(call["size"])]
        )
    coarse = Part(call.shape[dim], part.axis, part.step * call["step"])
    fine = Part(call["size"], part.axis, part.step)
    return geometry.with_dims([*geometry.with_dim(dim, (coarse,)).dims, (fine,)])


def im2col(call: Call) -> Geometry:
    """Rule of ``torch.nn.functional.unfold``: the patches of a picture as columns."""
    geometry = call.known("self")
    kernel, dilation = call["kernel_size"], call["dilation"]
    pad, stride = call["padding"], call["stride"]
    inner: list[Part] = []
    outer: list[Part] = []
    for number in range(2):
        dim = len(geometry.dims) - 2 + number
        part, geometry = single(geometry, dim)
        if part is None or part.axis is None:
            raise UnplacedError("patches of features")
        geometry = geometry.moved(part.axis, -pad[number] * part.step)
        reach = dilation[number] * (kernel[number] - 1) + 1
        count = (part.size + 2 * pad[number] - reach) // stride[number] + 1
        outer.append(Part(count, part.axis, part.step * stride[number]))
        inner.append(Part(kernel[number], part.axis, part.step * dilation[number]))
    leading = geometry.dims[: len(geometry.dims) - 3]
    return geometry.with_dims([*leading, (*geometry.dims[-3], *inner), tuple(outer)])


def col2im(call: Call) -> Geometry:
    """Rule of ``torch.nn.functional.fold``: patches beside each other become a picture again."""
    geometry = call.known("self")
    kernel, stride, pad = call["kernel_size"], call["stride"], call["padding"]
    patches = [part for part in merged(geometry.dims[-1]) if part.size > 1]
    positions = {part.axis for part in flat(geometry.dims[-2]) if part.axis is not None}
    counts = [
        (call["output_size"][i] + 2 * pad[i] - call["dilation"][i] * (kernel[i] - 1) - 1)
        // stride[i] + 1
        for i in range(2)
    ]  # fmt: skip
    sizes = [count for count in counts if count > 1]
    if [part.size for part in patches] != sizes or any(p.axis is None for p in patches):
        raise UnplacedError("patches are folded along other axes than those of the image")
    dims: list[Parts] = []
    for number in range(2):
        part = patches.pop(0) if counts[number] > 1 else None
        if part is None or part.axis is None:
            dims.append(nothing(call.shape[number - 2]))
            continue
        step = part.step / stride[number]
        centred = 0 if part.axis in positions else (kernel[number] - 1) / 2
        geometry = geometry.moved(part.axis, (pad[number] - centred) * step, part.step)
        dims.append((Part(call.shape[number - 2], part.axis, step),))
    return geometry.with_dims([*geometry.dims[:-2], nothing(call.shape[-3]), *dims])


def halves(call: Call) -> Geometry:
    """Rule of gated linear units: one half of an axis gates the other."""
    geometry = call.known("self")
    dim = call["dim"] % len(geometry.dims)
    return sliced(geometry, dim, 0, call.shape[dim])
