"""Operations without a gradient: the map is refused, also by the memory-saving operations."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import medcam
from medcam.errors import NoMapError


class Stop(torch.autograd.Function):
    """An operation without a gradient, such as a quantised kernel or a look-up in a table."""

    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        return None


class Net(nn.Module):
    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.conv, self.operation, self.fc = nn.Conv2d(1, 8, 3), operation, nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(Stop.apply(self.operation(self.conv(x)).mean((2, 3))))


OPERATIONS = [
    nn.Identity(), nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(), nn.LeakyReLU(inplace=True),
    nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3),
    nn.ConvTranspose2d(8, 8, 3), nn.InstanceNorm2d(8),
]  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
@pytest.mark.parametrize("method", ["gcam", "hirescam"])
def test_no_map_behind_it(operation, method):
    with pytest.raises(NoMapError, match="the target does not depend on it"):
        medcam.explain(Net(operation).eval(), torch.rand(1, 1, 16, 16), layer="conv", method=method)


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_no_map_of_the_input(operation):
    with pytest.raises(NoMapError, match="The target does not depend on the input"):
        medcam.explain(Net(operation).eval(), torch.rand(1, 1, 16, 16), method="saliency")


def test_a_branch_without_a_gradient_beside_one_with():
    class Two(Net):
        def forward(self, x):
            y = self.operation(self.conv(x))
            return self.fc(Stop.apply(y.mean((2, 3))) + y.amax((2, 3)))

    found = medcam.explain(
        Two(nn.ReLU()).eval(), torch.rand(1, 1, 16, 16), layer="conv", method="hirescam"
    )
    assert found.map.values.any()


@pytest.mark.filterwarnings("ignore:quantized..linear_dynamic")  # PyTorch says it, too
def test_a_quantised_head():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated
        net = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(NoMapError):
        medcam.explain(net, torch.rand(1, 1, 16, 16), layer="0", target=1)
