"""Raw maps of 1D signals in float64 against captum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import medcam

from . import peer_calls as peers

TARGET = [2, 0, 1]


@pytest.fixture
def net():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv1d(12, 8, 9, 2, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(8, 16, 5, 1, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(16, 3),
    ).double().eval()  # fmt: skip


@pytest.fixture
def x():
    torch.manual_seed(2)
    return torch.randn(3, 12, 64, dtype=torch.float64)


def agree(ours, theirs):
    assert ours.shape == theirs.shape
    assert theirs.flatten(1).any(1).sum() >= 2, "the comparison would be of zeros"
    assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


@pytest.mark.parametrize("layer", ["0", "2", "4", "5"])
def test_grad_cam_is_captums(net, x, layer):
    ours = medcam.explain(net, x, layer=layer, target=TARGET, shape=None).map.values[:, 0]
    agree(ours, peers.captum_grad_cam(net, layer, x, TARGET))


@pytest.mark.parametrize("layer", ["0", "5"])
def test_hirescam_is_captums_gradient_times_activation(net, x, layer):
    ours = medcam.explain(net, x, layer=layer, target=TARGET, shape=None, method="hirescam")
    agree(ours.map.values[:, 0], peers.captum_hires_cam(net, layer, x, TARGET))


def test_saliency_is_captums(net, x):
    ours = medcam.explain(net, x, target=TARGET, method="saliency").map.values[:, 0]
    agree(ours, peers.captum_saliency(net, x, TARGET).abs().amax(1))
