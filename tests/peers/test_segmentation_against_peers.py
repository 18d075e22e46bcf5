"""Maps of segmentations against other libraries, which get masked mean logits as class scores."""

from __future__ import annotations

import pytest
import torch

import medcam
from support.nets import image

from . import peer_calls as peers
from .relu_nets import MaskedMeans, ReluUNet, predicted_as_each_class, predicted_foreground

LAYERS = ["down", "bottleneck", "decoder"]
TARGET = [2, 1]


@pytest.fixture(params=[2, 3], ids=["2D", "3D"])
def dims(request):
    return request.param


@pytest.fixture
def x(dims):
    torch.manual_seed(3)
    return image(dims, batch=2, size=8, channels=2).double()


@pytest.fixture
def net(dims, x):
    net = ReluUNet(dims).double().eval()
    net.balance(x)
    return net


@pytest.fixture
def wrapped(net, x):
    """The network as a classifier: output ``[batch, 3]``, each class over its own voxels."""
    with torch.no_grad():
        return MaskedMeans(net, predicted_as_each_class(net(x)))


def raw(net, x, method, layer, target=TARGET):
    explanation = medcam.explain(net, x, method=method, layer=layer, target=target, shape=None)
    return explanation.map.values[:, 0]


def agree(ours, theirs, tolerance=1e-12):
    assert ours.shape == theirs.shape
    assert theirs.any(), "the comparison would be of zeros"
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_is_captums_and_pytorch_grad_cams(net, wrapped, x, layer):
    ours = raw(net, x, "gcam", layer)
    agree(ours, peers.captum_grad_cam(wrapped, f"net.{layer}", x, TARGET))
    theirs = peers.pytorch_grad_cam_map("gcam", wrapped, f"net.{layer}", x, TARGET)
    agree(ours, theirs.relu())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", ["gcam", "layercam"])
def test_maps_are_torchcams(net, wrapped, x, layer, method):
    theirs = peers.torchcam_map(method, wrapped, f"net.{layer}", x, TARGET)
    agree(raw(net, x, method, layer), theirs)


@pytest.mark.parametrize("layer", LAYERS)
def test_hirescam_is_captums_and_pytorch_grad_cams(net, wrapped, x, layer):
    ours = raw(net, x, "hirescam", layer)
    agree(ours, peers.captum_hires_cam(wrapped, f"net.{layer}", x, TARGET))
    agree(ours, peers.pytorch_grad_cam_map("hirescam", wrapped, f"net.{layer}", x, TARGET))


@pytest.mark.parametrize("layer", LAYERS)
def test_xgradcam_is_torchcams(net, x, layer):
    bright = x * 1e7  # its epsilon is added to the sum of activations
    net.balance(bright)
    with torch.no_grad():
        wrapped = MaskedMeans(net, predicted_as_each_class(net(bright)))
    theirs = peers.torchcam_map("xgradcam", wrapped, f"net.{layer}", bright, TARGET)
    agree(raw(net, bright, "xgradcam", layer), theirs)


def test_grad_cam_pp_is_pytorch_grad_cams(net, x):
    with torch.no_grad():
        net.head.weight *= 1e9  # its epsilon is added to squared gradients
        net.head.bias *= 1e9
        wrapped = MaskedMeans(net, predicted_as_each_class(net(x)))
    theirs = peers.pytorch_grad_cam_map("gcampp", wrapped, "net.bottleneck", x, TARGET)
    agree(raw(net, x, "gcampp", "bottleneck"), theirs.relu(), 1e-9)


def test_grad_cam_is_monais_one_sample_at_a_time(net, x):
    with torch.no_grad():
        voxels = predicted_as_each_class(net(x))
    theirs = [
        peers.monai_grad_cam(MaskedMeans(net, mask[None]), "net.bottleneck", sample[None], [k])
        for sample, mask, k in zip(x, voxels, TARGET, strict=True)
    ]
    agree(raw(net, x, "gcam", "bottleneck"), torch.cat(theirs))


def test_guided_maps_and_gradients_are_captums(net, wrapped, x):
    maps = medcam.explain(
        net,
        x,
        method=["gbp", "ggcam", "saliency", "inputxgradient"],
        layer="bottleneck",
        target=TARGET,
    ).maps
    ours = {method: item.channels[:, 0] for (method, _), item in maps.items()}
    agree(ours["gbp"], peers.captum_guided_backprop(wrapped, x, TARGET))
    theirs = peers.captum_guided_grad_cam(wrapped, "net.bottleneck", x, TARGET)
    agree(ours["ggcam"], theirs)
    agree(ours["saliency"], peers.captum_saliency(wrapped, x, TARGET))
    agree(ours["inputxgradient"], peers.captum_input_x_gradient(wrapped, x, TARGET))


@pytest.mark.parametrize("layer", LAYERS)
def test_default_target_is_the_mean_over_the_predicted_foreground(net, x, layer):
    with torch.no_grad():
        wrapped = MaskedMeans(net, predicted_foreground(net(x)))
    theirs = peers.captum_hires_cam(wrapped, f"net.{layer}", x, [0, 0])
    agree(raw(net, x, "hirescam", layer, target=None), theirs)


def test_one_channel_is_explained_by_its_sign(dims, x):
    net = ReluUNet(dims, classes=1).double().eval()
    net.balance(x)
    with torch.no_grad():
        logit = net(x)
    for k, sign in ((1, 1), (0, -1)):
        inside = logit * sign > 0
        assert inside.flatten(1).any(1).all()
        wrapped = MaskedMeans(net, inside[:, None])
        theirs = sign * peers.captum_hires_cam(wrapped, "net.bottleneck", x, [0, 0])
        agree(raw(net, x, "hirescam", "bottleneck", target=k), theirs)
