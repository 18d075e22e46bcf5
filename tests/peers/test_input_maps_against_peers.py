"""Maps of the input against other libraries: guided maps, saliency, input × gradient."""

from __future__ import annotations

import pytest
import torch

import medcam
from support.nets import image

from . import peer_calls as peers
from .relu_nets import ReluClassifier

TARGET = [2, 0, 1]


@pytest.fixture(params=[2, 3], ids=["2D", "3D"])
def net(request):
    torch.manual_seed(1)
    return ReluClassifier(request.param).double().eval()


@pytest.fixture
def x(net):
    return image(net.first.conv.weight.ndim - 2, batch=3, size=8, channels=2).double() - 0.5


def channels(net, x, method, layer="last"):
    """Return the signed values of each input channel, before the reduction to one map."""
    return medcam.explain(net, x, method=method, layer=layer, target=TARGET).map.channels[:, 0]


def agree(ours, theirs, tolerance=1e-12):
    assert ours.shape == theirs.shape
    assert theirs.flatten(1).any(1).all(), "the comparison would be of zeros"
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_guided_backprop_is_captums(net, x):
    agree(channels(net, x, "gbp"), peers.captum_guided_backprop(net, x, TARGET))


def test_guided_backprop_is_monais_where_the_relus_are_named_relu(net, x):
    agree(channels(net, x, "gbp"), peers.monai_guided_backprop(net, x, TARGET))


def test_guided_backprop_differs_from_the_plain_gradient_here(net, x):
    guided, plain = channels(net, x, "gbp"), peers.captum_saliency(net, x, TARGET)
    assert (guided - plain).abs().max() > 0.1 * plain.abs().max()


@pytest.mark.parametrize("layer", ["first", "last"])
def test_guided_grad_cam_is_captums_with_linear_interpolation(net, x, layer):
    theirs = peers.captum_guided_grad_cam(net, layer, x, TARGET)
    ours = channels(net, x, "ggcam", layer)
    nonzero = theirs.flatten(1).any(1)  # if Grad-CAM is zero, so is Guided Grad-CAM
    assert nonzero.sum() >= 2
    agree(ours[nonzero], theirs[nonzero])
    assert not ours[~nonzero].any()


def test_saliency_is_captums_and_monais(net, x):
    ours = channels(net, x, "saliency")
    agree(ours, peers.captum_saliency(net, x, TARGET))
    agree(ours, peers.monai_saliency(net, x, TARGET))


def test_input_x_gradient_is_captums(net, x):
    agree(channels(net, x, "inputxgradient"), peers.captum_input_x_gradient(net, x, TARGET))


def test_saliency_is_the_largest_magnitude_over_the_channels(net, x):
    theirs = peers.captum_saliency(net, x, TARGET)
    map_ = medcam.explain(net, x, method="saliency", target=TARGET).map
    agree(map_.values[:, 0], theirs.abs().amax(1))


def test_signed_maps_keep_the_value_of_largest_magnitude(net, x):
    theirs = peers.captum_guided_backprop(net, x, TARGET)
    largest = theirs.gather(1, theirs.abs().argmax(1, keepdim=True))[:, 0]
    map_ = medcam.explain(net, x, method="gbp", target=TARGET).map
    assert (largest < 0).any()
    agree(map_.values[:, 0], largest)
