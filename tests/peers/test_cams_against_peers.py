"""Raw maps of a layer in float64 against other libraries, for the methods that they get right.

If a library adds an epsilon to a denominator, the values are scaled until the epsilon is
negligible. Then the formulas agree up to rounding.
"""

from __future__ import annotations

import pytest
import torch
from torchvision.models import DenseNet

import medcam
from support.nets import image

from . import peer_calls as peers
from .relu_nets import ReluClassifier

TARGET = [2, 0, 1]
POSITIVE = {"gcam", "gcampp", "layercam", "xgradcam"}  # maps that end in a ReLU


@pytest.fixture(params=[2, 3], ids=["2D", "3D"])
def net(request):
    torch.manual_seed(1)
    return ReluClassifier(request.param).double().eval()


@pytest.fixture
def x(net):
    return image(net.first.conv.weight.ndim - 2, batch=3, size=8, channels=2).double()


def raw(net, x, method, layer, shape=None):
    explanation = medcam.explain(net, x, method=method, layer=layer, target=TARGET, shape=shape)
    return explanation.map.values[:, 0]


def agree(ours, theirs, tolerance=1e-12):
    assert ours.shape == theirs.shape
    assert theirs.flatten(1).any(1).sum() >= 2, "the comparison would be of zeros"
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("layer", ["first", "last", "last.conv"])
def test_grad_cam_is_captums(net, x, layer):
    agree(raw(net, x, "gcam", layer), peers.captum_grad_cam(net, layer, x, TARGET))


@pytest.mark.parametrize("layer", ["first", "last", "last.conv"])
def test_hirescam_is_captums_gradient_times_activation(net, x, layer):
    agree(raw(net, x, "hirescam", layer), peers.captum_hires_cam(net, layer, x, TARGET))


@pytest.mark.parametrize("layer", ["first", "last"])
def test_grad_cam_is_monais_sample_by_sample(net, x, layer):
    agree(raw(net, x, "gcam", layer), peers.monai_grad_cam(net, layer, x, TARGET))


def test_grad_cam_at_the_input_is_monais(net, x):
    theirs = peers.monai_grad_cam_at_input(net, "last", x, TARGET)
    agree(raw(net, x, "gcam", "last", shape="input"), theirs)


@pytest.mark.parametrize("method", ["gcam", "layercam"])
@pytest.mark.parametrize("layer", ["first", "last"])
def test_maps_are_torchcams(net, x, method, layer):
    agree(raw(net, x, method, layer), peers.torchcam_map(method, net, layer, x, TARGET))


@pytest.mark.parametrize("method", ["gcam", "hirescam", "layercam"])
@pytest.mark.parametrize("layer", ["first", "last"])
def test_maps_are_pytorch_grad_cams(net, x, method, layer):
    theirs = peers.pytorch_grad_cam_map(method, net, layer, x, TARGET)
    agree(raw(net, x, method, layer), theirs.relu() if method in POSITIVE else theirs)


@pytest.mark.parametrize("layer", ["first", "last"])
def test_xgradcam_is_torchcams_and_pytorch_grad_cams(net, x, layer):
    bright = x * 1e7  # their epsilons, 1e-8 and 1e-7, are added to the sum of activations
    ours = raw(net, bright, "xgradcam", layer)
    agree(ours, peers.torchcam_map("xgradcam", net, layer, bright, TARGET))
    agree(ours, peers.pytorch_grad_cam_map("xgradcam", net, layer, bright, TARGET).relu())


@pytest.mark.parametrize("layer", ["first", "last"])
def test_grad_cam_pp_is_pytorch_grad_cams(net, x, layer):
    with torch.no_grad():
        net.head.weight *= 1e7  # its epsilon, 1e-6, is added to squared gradients
    theirs = peers.pytorch_grad_cam_map("gcampp", net, layer, x, TARGET).relu()
    agree(raw(net, x, "gcampp", layer), theirs, 1e-9)


@pytest.mark.parametrize("layer", ["features.denseblock1", "features.denseblock2"])
def test_a_torchvision_densenet_agrees_with_all_four(layer):
    net = DenseNet(8, (2, 2), num_init_features=8, num_classes=3).double().eval()
    x = image(2, batch=3, size=32, channels=3).double()
    agree(raw(net, x, "gcam", layer), peers.captum_grad_cam(net, layer, x, TARGET))
    agree(raw(net, x, "gcam", layer), peers.monai_grad_cam(net, layer, x, TARGET))
    agree(raw(net, x, "layercam", layer), peers.torchcam_map("layercam", net, layer, x, TARGET))
    theirs = peers.pytorch_grad_cam_map("hirescam", net, layer, x, TARGET)
    agree(raw(net, x, "hirescam", layer), theirs)
