"""Instance norms of one sample have right gradients, whatever strides the gradient arrives in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import medcam

AFTER = {"nothing": nn.Identity(), "gelu": nn.GELU(), "silu": nn.SiLU(), "elu": nn.ELU()}


class Permuted(nn.Module):
    """An instance norm whose gradient arrives in channels-last strides: permute, then Linear."""

    def __init__(self, after: nn.Module, dims: int = 2, *, functional: bool = False) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        norm = nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d
        self.stem = conv(1, 6, 3, padding=1)
        self.norm = F.instance_norm if functional else norm(6, affine=True)
        self.after, self.head = after, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.after(self.norm(self.stem(x)))
        return self.head(y.movedim(1, -1).contiguous()).square().flatten(1, -2).mean(1)


def by_differences(net: nn.Module, x: Tensor, step: float = 1e-5) -> Tensor:
    """Return the gradient of the second output by central differences."""
    grad = torch.zeros_like(x)
    with torch.no_grad():
        for index in np.ndindex(*x.shape):
            moved = [x.clone() for _ in range(2)]
            moved[0][index] += step
            moved[1][index] -= step
            grad[index] = (net(moved[0]) - net(moved[1]))[0, 1] / (2 * step)
    return grad


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "keeping the graph"])
def test_gradients_are_those_of_finite_differences(after, layout, trained, functional):
    net = Permuted(AFTER[after], functional=functional).double().eval()
    net = net.to(memory_format=layout)
    x = torch.rand(1, 1, 5, 4, dtype=torch.float64).to(memory_format=layout)
    expected = by_differences(net, x)
    if trained:  # the output keeps its graph: the memory-saving operations are off
        model = medcam.inject(net, backend="inputxgradient", label=1, normalize=False)
        model(x)
        found = model.get_explanation().map.values[:, 0]
    else:
        found = medcam.explain(net, x, method="inputxgradient", target=1).map.values[:, 0]
    assert torch.allclose(found, (expected * x)[:, 0], atol=1e-7)


def test_three_axes():
    net = Permuted(nn.GELU(), 3).double().eval()
    x = torch.rand(1, 1, 3, 4, 3, dtype=torch.float64)
    expected = by_differences(net, x).abs()[:, 0]
    found = medcam.explain(net, x, method="saliency", target=1).map
    assert torch.allclose(found.values[:, 0], expected, atol=1e-7)


def test_the_callers_own_backward_pass_is_pytorchs():
    net = Permuted(nn.GELU()).double()
    x = torch.rand(1, 1, 5, 4, dtype=torch.float64)
    net(x)[0, 1].backward()
    plain = net.stem.weight.grad.clone()
    net.zero_grad()
    medcam.inject(net, backend="gcam", layer="norm", label=1)(x)[0, 1].backward()
    assert torch.equal(net.stem.weight.grad, plain)


def test_pytorch_still_needs_this():
    """When this fails, PyTorch is mended: remove `medcam.engine.model.instance_norms`."""
    net, x = Permuted(nn.Identity()).double(), torch.rand(1, 1, 5, 4, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(net(leaf)[0, 1], leaf)
    expected = by_differences(net, x)
    assert (grad - expected).abs().max() > 0.1 * expected.abs().max()
