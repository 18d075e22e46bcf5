"""Where cells lie, by networks that average an image whose voxels hold their own coordinate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import medcam
from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.reading import arrangement_of
from medcam.engine.model.placement.tracer import Tracer


def averaging(module: nn.Module) -> nn.Module:
    """Return a module whose convolutions and linear layers average, in float64."""
    module = module.double().eval()
    for part in module.modules():
        if isinstance(part, nn.modules.conv._ConvTransposeNd):
            strides = torch.tensor(part.stride).prod()
            per_output = part.weight[:, 0].numel() / strides
            part.weight.data.fill_(1 / per_output)
        elif isinstance(part, (nn.modules.conv._ConvNd, nn.Linear)):
            part.weight.data.fill_(1 / part.weight[0].numel())
        if getattr(part, "bias", None) is not None:
            part.bias.data.zero_()
    return module


def coordinates(shape, axis: int) -> Tensor:
    """Return an image whose voxels hold their index along one axis."""
    line = torch.arange(shape[axis], dtype=torch.float64)
    return line.reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape).clone()


def deviation(net, shape, *, tolerated: float = 1e-9) -> int:
    """Check all cells that see no border; return their number.

    Transposed convolutions and nearest neighbours repeat values, so groups of cells are compared in
    the mean: the position is that of an even grid.
    """
    space, checked = range(2, len(shape)), 0
    for axis in space:
        image = coordinates(shape, axis)
        tracer = Tracer([image])
        with tracer.following(net.modules()), torch.no_grad():
            output = net(image)
        geometry = tracer.origins(output)[0]
        assert isinstance(geometry, Geometry), geometry
        reading = arrangement_of(geometry, shape)
        # over what ones become: zeros of a padding, and kernels that overlap unevenly, cancel
        weights = reading.of(net(torch.ones_like(image))).mean(1).detach()
        values = reading.of(output).mean(1) / weights
        number = reading.map_axes.index(axis)
        values = reading.map_of(values).movedim(number + 1, 0).flatten(1)
        start, step = reading.grid.start[number], reading.grid.step[number]
        at = start + step * torch.arange(len(values), dtype=torch.float64)
        reach = geometry.width[axis] / 2 + abs(step)
        inside = (at - reach >= -0.5) & (at + reach <= shape[axis] - 0.5)
        if not inside.any():
            continue
        error = (values - at[:, None])[inside]
        error = error[error.isfinite()]  # cells in a padding see nothing
        assert float(error.abs().max()) <= tolerated, (axis, reading.grid, error)
        checked += int(inside.sum())
    return checked


ASK = {"target": 1, "layer": "encoder", "method": "gcam"}


def blob(row, column, size=64):
    index = torch.arange(size)
    return torch.exp(-((index[:, None] - row) ** 2 + (index - column) ** 2) / 18.0)


class Steered(nn.Module):
    """A detector of a blob; what it does with its inputs is ``way(model, *inputs)``."""

    def __init__(self, way, **settings):
        super().__init__()
        self.way = way
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU())
        nn.init.constant_(self.encoder[0].weight, 1 / 9)
        nn.init.zeros_(self.encoder[0].bias)
        for name, value in settings.items():
            is_tensor = isinstance(value, torch.Tensor)
            self.register_buffer(name, value) if is_tensor else setattr(self, name, value)

    def forward(self, *inputs):
        score = self.encoder(self.way(self, *inputs)).flatten(1).mean(1)
        return torch.stack([-score, score], 1)


def column(model, *inputs, inject=None):
    """Return the column of the map's peak."""
    if inject is not None:
        inject(*inputs)
        values = next(iter(inject.get_explanation().maps.values())).values[0, 0]
    else:
        values = medcam.explain(model, *inputs, **ASK).map.values[0, 0]
    return int(values.argmax()) % values.shape[1]
