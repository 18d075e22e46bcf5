"""Path and perturbation methods against captum, where captum is right."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients, LayerFeatureAblation, Occlusion

import medcam
from medcam.methods import ablationcam, intgrad, occlusion
from support.nets import Classifier, image


def net_of(dims):
    torch.manual_seed(0)
    net = Classifier(dims, channels=2).double().eval()
    net.head.weight.data.abs_()
    return net, image(dims, size=8, channels=2).double()


def assert_same(found, expected, tolerance=1e-12):
    size = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * size)


@pytest.mark.filterwarnings("ignore:The Integrated Gradients map of sample")
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("baseline", [0, 0.5])
def test_integrated_gradients(dims, baseline):
    net, x = net_of(dims)
    theirs = IntegratedGradients(net).attribute(
        x, baselines=baseline, target=2, n_steps=20, method="gausslegendre"
    )
    method = intgrad(baseline=float(baseline), steps=20)
    ours = medcam.explain(net, x, method=method, target=2).map.channels
    assert_same(ours[:, 0], theirs, 1e-7)  # captum's weights are float32


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (4, 2), (2, 1), (5, 3)])
def test_occlusion(dims, size, stride):
    """Sizes and strides that fit the image: captum's last box is smaller otherwise."""
    net, x = net_of(dims)
    theirs = Occlusion(net).attribute(
        x, (2, *[size] * dims), strides=(1, *[stride] * dims), baselines=0.3, target=2
    )
    method = occlusion(size=size, stride=stride, fill=0.3)
    ours = medcam.explain(net, x, method=method, target=2).map.values
    # captum repeats the map for each channel, in float32
    assert_same(ours[:, 0], theirs[:, 0].double(), 1e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_weights_of_ablation_cam(dims):
    net, x = net_of(dims)
    mask = torch.arange(8).reshape(1, 8, *[1] * dims)
    features = net.features(x).detach()
    drops = LayerFeatureAblation(net, net.features).attribute(
        x, target=2, layer_mask=mask.expand(1, *features.shape[1:])
    )
    expected = (drops * features).sum(1).relu()
    ask = {"method": ablationcam(), "layer": "features", "target": 2, "shape": None}
    ours = medcam.explain(net, x, **ask).map.values[:, 0]
    assert_same(ours, expected, 1e-6)
    assert expected.any()
