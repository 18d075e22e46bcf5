"""Rules of operations that change the step of the cells: kernels, pooling, interpolation."""

from __future__ import annotations

from collections.abc import Sequence

from medcam.engine.model.placement.geometry import Geometry, require_no_tiles, single
from medcam.engine.model.placement.parts import Part, UnplacedError, merged, nothing, size_of
from medcam.engine.model.placement.rules.call import Call, Rule


def windows(
    geometry: Geometry,
    dims: Sequence[int],
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Geometry:
    """Return the geometry after a convolution or pooling along some axes of a tensor.

    Output cell ``i`` is centred at input index ``i·stride - padding + dilation·(kernel - 1)/2``.

    Args:
        geometry: The input.
        dims: The axes of the tensor.
        sizes: Their extents in the result.
        kernel: The kernel's extents.
        stride: The strides.
        padding: The padding before each axis.
        dilation: The dilations.
    """
    for number, dim in enumerate(dims):
        reach = dilation[number] * (kernel[number] - 1)
        unchanged = stride[number] == 1 and sizes[number] == size_of(geometry.dims[dim])
        try:
            part, geometry = single(geometry, dim)
        except UnplacedError:
            if not unchanged:
                raise
            continue  # along a sequence of tokens: each stays where it is
        if part is None:
            geometry = geometry.with_dim(dim, nothing(sizes[number]))
            continue
        offset = part.step * (reach / 2 - padding[number])
        geometry = geometry.moved(part.axis, offset, reach * part.step)
        step = part.step * stride[number]
        geometry = geometry.with_dim(dim, (Part(sizes[number], part.axis, step),))
    return geometry


def convolution(call: Call) -> Geometry:
    """Rule of convolutions, transposed ones included."""
    geometry, weight = call.known("input"), call["weight"]
    rank = weight.ndim - 2
    batched = len(geometry.dims) == rank + 2
    first = 2 if batched else 1
    spread = [_spread(call[name], rank) for name in ("stride", "padding", "dilation")]
    kernel, sizes = list(weight.shape[2:]), list(call.shape[first:])
    channels = geometry.dims[first - 1]
    depthwise = call["groups"] == size_of(channels) > 1 and call.shape[first - 1] == call["groups"]
    if not depthwise:
        geometry = geometry.contracted(channels).with_dim(first - 1, nothing(call.shape[first - 1]))
        require_no_tiles(channels, geometry)
    dims = list(range(first, first + rank))
    if not call["transposed"]:
        return windows(geometry, dims, sizes, kernel, *spread)
    for dim, size, k, (s, p, d) in zip(dims, sizes, kernel, zip(*spread, strict=True), strict=True):
        part, geometry = single(geometry, dim)
        if part is None:
            geometry = geometry.with_dim(dim, nothing(size))
            continue
        step = part.step / s
        geometry = geometry.moved(part.axis, step * (p - d * (k - 1) / 2), step * d * (k - 1))
        geometry = geometry.with_dim(dim, (Part(size, part.axis, step),))
    return geometry


def _spread(value: Sequence[int] | int, rank: int) -> list[int]:
    """Return one number for each spatial axis."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * rank if len(numbers) == 1 else numbers


def pooling(rank: int) -> Rule:
    """Return the rule of a pooling with a kernel."""

    def rule(call: Call) -> list[Geometry | None]:
        geometry = call.known("self")
        kernel = _spread(call["kernel_size"], rank)
        stride = _spread(call["stride"], rank) if len(call["stride"]) else kernel
        padding = _spread(call["padding"], rank)
        dilation = _spread(call.arguments.get("dilation", 1), rank)
        dims = list(range(len(geometry.dims) - rank, len(geometry.dims)))
        sizes = list(call.shape[-rank:])
        pooled = windows(geometry, dims, sizes, kernel, stride, padding, dilation)
        return [pooled] * len(call.shapes)

    return rule


def adaptive_pooling(rank: int) -> Rule:
    """Return the rule of a pooling to an extent: cell i is centred at ``(i + 1/2)·n/m - 1/2``."""

    def rule(call: Call) -> list[Geometry | None]:
        geometry = call.known("self")
        for dim, size in zip(range(-rank, 0), call.shape[-rank:], strict=True):
            geometry = rescaled(geometry, len(geometry.dims) + dim, size, 0.5)
        return [geometry] * len(call.shapes)

    return rule


def rescaled(
    geometry: Geometry, dim: int, size: int, shift: float, ratio: float | None = None
) -> Geometry:
    """Return the geometry of an axis resampled to another extent.

    Args:
        geometry: The input.
        dim: The axis of the tensor.
        size: Its extent in the result.
        shift: The part of ``ratio - 1`` by which index 0 moves: 0.5 if the borders of both grids
            lie on each other.
        ratio: The step of the result in cells of the input. None: the ratio of the extents.
    """
    part, geometry = single(geometry, dim)
    if part is None:
        return geometry.with_dim(dim, nothing(size))
    ratio = part.size / size if ratio is None else ratio
    step = part.step * ratio
    geometry = geometry.moved(part.axis, part.step * (ratio - 1) * shift, max(step, part.step))
    return geometry.with_dim(dim, (Part(size, part.axis, step),))


def interpolation(kind: str) -> Rule:
    """Return the rule of an interpolation: "linear", "nearest" or "nearest-exact"."""

    def rule(call: Call) -> Geometry:
        geometry = call.known("self" if "self" in call.arguments else "input")
        rank = len(geometry.dims) - 2
        scales = [call.arguments.get(name) for name in _SCALES[rank]]
        factors = call.arguments.get("scale_factors")
        if factors is not None:
            scales = list(factors)
        for number in range(rank):
            dim, size = number + 2, call.shape[number + 2]
            extent, scale = size_of(geometry.dims[dim]), scales[number]
            ratio = 1 / scale if scale else extent / size
            if kind == "linear" and call.arguments.get("align_corners"):
                ratio = (extent - 1) / (size - 1) if size > 1 else 1.0
                geometry = rescaled(geometry, dim, size, 0.0, ratio)
            elif kind == "linear":
                geometry = rescaled(geometry, dim, size, 0.5, ratio)
            else:
                geometry = _nearest(geometry, dim, size, ratio, exact=kind == "nearest-exact")
        return geometry

    return rule


_SCALES = {1: ["scales"], 2: ["scales_h", "scales_w"], 3: ["scales_d", "scales_h", "scales_w"]}


def _nearest(geometry: Geometry, dim: int, size: int, ratio: float, *, exact: bool) -> Geometry:
    """Return the geometry after nearest-neighbour interpolation: the mean place of what is read."""
    part, geometry = single(geometry, dim)
    if part is None:
        return geometry.with_dim(dim, nothing(size))
    half = 0.5 if exact else 0.0
    read = [min(int((i + half) * ratio), part.size - 1) for i in range(size)]
    offset = sum(index - i * ratio for i, index in enumerate(read)) / size
    geometry = geometry.moved(part.axis, part.step * offset)
    return geometry.with_dim(dim, (Part(size, part.axis, part.step * ratio),))


def padding(call: Call) -> Geometry:
    """Rule of padding, and of cropping by negative padding."""
    geometry = call.known("self")
    amounts = call["pad"] if "pad" in call.arguments else call["padding"]
    for number in range(len(amounts) // 2):
        before, dim = amounts[2 * number], len(geometry.dims) - 1 - number
        size = call.shape[dim]
        if size == size_of(geometry.dims[dim]) and before == 0:
            continue
        if before >= 0 and len(merged(geometry.dims[dim])) > 1 and min(amounts) >= 0:
            # tokens beside a sequence
            inner = geometry.dims[dim]
            geometry = geometry.with_dim(dim, (Part(size, before=before, inner=inner),))
            continue
        part, geometry = single(geometry, dim)
        if part is None:
            geometry = geometry.with_dim(dim, nothing(size))
            continue
        geometry = geometry.moved(part.axis, -before * part.step)
        geometry = geometry.with_dim(dim, (Part(size, part.axis, part.step),))
        geometry = geometry.cut(part.axis) if min(amounts) < 0 else geometry
    return geometry


def pixel_shuffle(call: Call) -> Geometry:
    """Rule of features moved into space: each cell is divided."""
    geometry, factor = call.known("self"), call["upscale_factor"]
    for dim in (-2, -1):
        index = len(geometry.dims) + dim
        geometry = geometry.with_dim(index, (*geometry.dims[index], Part(factor)))
        _, geometry = single(geometry, index)
    return geometry.with_dim(-3, nothing(call.shape[-3]))


def pixel_unshuffle(call: Call) -> Geometry:
    """Rule of space moved into features: cells become coarser."""
    geometry, factor = call.known("self"), call["downscale_factor"]
    rank = len(geometry.dims)
    dims = [rank - 2, rank - 1]
    geometry = windows(geometry, dims, call.shape[-2:], [factor] * 2, [factor] * 2, [0, 0], [1, 1])
    return geometry.with_dim(rank - 3, nothing(call.shape[-3]))


def unpooling(call: Call) -> Geometry:
    """Rule of max unpooling: values go back to where the maximum was, inside the pooling window."""
    geometry = call.known("self")
    rank = len(call["output_size"])
    for dim, size in zip(range(-rank, 0), call.shape[-rank:], strict=True):
        number = len(geometry.dims) + dim
        stride = max(1, round(size / size_of(geometry.dims[number])))  # odd extents leave a rest
        geometry = rescaled(geometry, number, size, 0.5, 1 / stride)
    return geometry
