"""Gradients before an instance norm cancel; their rounding errors must not become a map."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import medcam
from medcam.engine.notices import notice_cancelling
from medcam.errors import MedcamWarning
from medcam.methods.grad_cam import grad_cam
from medcam.methods.means import means
from medcam.targets import class_score
from support.nets import image


class Net(nn.Module):
    """A convolution, an instance norm, a rectifier and a head."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        self.conv, self.norm, self.act = conv(1, 6, 3), norm(6, affine=True), nn.LeakyReLU()
        self.head = conv(6, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.norm(self.conv(x))).square())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["gcam", "ggcam"])
def test_the_map_is_zero_with_a_warning(method, dtype, dims):
    net, x = Net(dims).to(dtype).eval(), image(dims, size=20).to(dtype)
    with pytest.warns(
        MedcamWarning, match=r"cancel at layer 'conv', .* sample\(s\) 0, 1\. .*instance norm"
    ):
        found = medcam.explain(
            net, x, layer="conv", method=method, target=class_score(1), shape=None
        )
    assert not found.map.values.any()


@pytest.mark.parametrize(
    ("layer", "method"),
    [("norm", "gcam"), ("act", "gcam"), ("conv", "hirescam"), ("conv", "gcampp")],
)
def test_other_layers_and_methods_have_maps(layer, method):
    net, x = Net(3).eval(), image(3, size=20)
    found = medcam.explain(net, x, layer=layer, method=method, target=class_score(1))
    assert found.map.values.any()  # and a warning would be an error


def test_one_warning_names_many_layers():
    with pytest.warns(MedcamWarning, match="cancel at layer 'conv'") as told:
        found = medcam.explain(Net(2).eval(), image(size=20), layer="full", target=class_score(1))
    assert len(told) == 1
    assert [layer for layer, item in found.maps.items() if not item.values.any()] == ["conv"]
    nets = nn.Sequential(Net(2), nn.Conv2d(2, 1, 3, bias=False), Net(2)).eval()
    with pytest.warns(MedcamWarning, match=r"cancel at layers '2\.conv', '1', '0', \.\.\., so"):
        medcam.explain(nets, image(size=30), layer="full", target=class_score(1))


def test_on_other_devices_each_layer_has_a_pending_notice_of_its_own():
    told: list[str] = []

    class Noted:
        def add(self, flags: Tensor, meaning: str) -> None:
            told.append(meaning)

    flags = torch.zeros(2, dtype=torch.bool, device="meta")  # reading these would raise an error
    notice_cancelling(Noted(), {"a": flags, "b": flags})
    assert ["at layer 'a'" in told[0], "at layer 'b'" in told[1]] == [True, True]


def test_windows_warn_too():
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.InstanceNorm2d(3), nn.ReLU())
    with pytest.warns(MedcamWarning, match="cancel at layer '0'"):
        found = medcam.explain_volume(
            net.eval(), image(size=24), 12, layer="0", target=class_score(1)
        )
    assert not found.map.values.any()


def test_no_warning_if_a_map_is_zero_for_another_reason():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)).eval()
    nn.init.constant_(net[2].weight, -1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = medcam.explain(net, image(), layer="1", target=class_score(1))
        assert not found.map.values.any()  # all evidence is against the target
        nn.init.zeros_(net[2].weight)
        assert not medcam.explain(net, image(), layer="1", target=class_score(1)).map.values.any()


def test_one_sample_does_not_change_another():
    cancel = torch.randn(1, 4, 1000)
    cancel -= cancel.double().mean(2, keepdim=True).float()
    other = torch.randn(1, 4, 1000)
    other[:, 0] = cancel[:, 0]  # kept, since other means are larger
    both = means(torch.cat([cancel, other]))
    assert not both[0].any()
    assert torch.equal(both[1], other.mean(2)[0])


@pytest.mark.parametrize("share", [1e-4, 1e-2])
def test_a_small_mean_is_a_mean(share):
    terms = torch.ones(1, 2, 1024)
    terms[..., ::2] = -1
    terms[:, 1] += share
    assert means(terms)[0, 1].item() == pytest.approx(share, rel=0.01)
    assert means(terms)[0, 0] == terms[0, 0].mean()
    maps = grad_cam(torch.ones(1, 2, 32, 32), terms.view(1, 2, 32, 32))
    assert maps.max().item() == pytest.approx(share, rel=0.01)
