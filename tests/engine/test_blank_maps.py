"""A map that is zero says why, once; rounding errors of gradients that cancel are no map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import medcam
from medcam.engine.blanks import BlankContext, notice_blanks
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
        MedcamWarning, match=r"cancel at layer 'conv' .* sample\(s\) 0, 1: .*instance norm"
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
    options = {"method": "gcam", "layer": "full", "target": class_score(1)}
    with pytest.warns(MedcamWarning, match="cancel at layer 'conv'") as told:
        found = medcam.explain(Net(2).eval(), image(size=20), **options)
    assert len(told) == 1
    assert [layer for layer, item in found.maps.items() if not item.values.any()] == ["conv"]
    nets = nn.Sequential(Net(2), nn.Conv2d(2, 1, 3, bias=False), Net(2)).eval()
    with pytest.warns(MedcamWarning, match=r"cancel at layers '2\.conv', '1', '0', \.\.\. for"):
        medcam.explain(nets, image(size=30), **options)


def test_on_other_devices_each_layer_has_a_pending_notice_of_its_own():
    told: list[str] = []

    class Noted:
        def add(self, flags: Tensor, meaning: str) -> None:
            told.append(meaning)

    # reading these would raise an error
    flags = torch.zeros(2, 1, dtype=torch.bool, device="meta")
    keys = [("cancelling", "Grad-CAM", (layer, 0)) for layer in "ab"]
    context = BlankContext(False, frozenset(), "instance norm")
    notice_blanks(Noted(), dict.fromkeys(keys, flags), None, context)
    assert ["at layer 'a'" in told[0], "at layer 'b'" in told[1]] == [True, True]


@pytest.mark.parametrize("channel_weights", ["window", "volume"])
def test_windows_warn_once_for_the_volume(channel_weights):
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.InstanceNorm2d(3), nn.ReLU())
    with pytest.warns(MedcamWarning, match="cancel at layer '0'") as told:
        found = medcam.explain_volume(
            net.eval(), image(size=24), 12, layer="0", method="gcam", target=class_score(1),
            channel_weights=channel_weights,
        )  # fmt: skip
    assert not found.map.values.any()
    assert len(told) == 1


def against(*, bias: float = 0.0) -> nn.Sequential:
    """Return a network whose features all speak against both classes."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)).eval()
    nn.init.uniform_(net[0].weight, 0.1, 1.0)
    nn.init.constant_(net[2].weight, -1.0)
    nn.init.constant_(net[2].bias, bias)
    return net


BLANK = r"the map of Grad-CAM is zero there\."


@pytest.mark.parametrize(
    ("method", "layer", "change", "says"),
    [
        ("gcam", "1", None, rf"Everything at layer '1' speaks against .* 0, 1: {BLANK} .*hirescam"),
        ("gcam", "auto", None, r"Everything at layer '1', which was chosen automatically, speaks"),
        ("layercam", "1", None, "Where layer '1' has a gradient|Everything at layer '1'"),
        ("gcam", "1", ("2", 0.0), rf"gradient is zero at layer '1' for .* 0, 1: {BLANK} This targ"),
        ("hirescam", "1", ("2", 0.0), "gradient is zero at layer '1' .*the map of HiResCAM"),
        ("gcam", "1", ("0", -1.0), "features are zero at layer '1' for .*earlier layer"),
        ("eigencam", "1", ("0", -1.0), "features are zero at layer '1'"),
        ("eigencam", "1", ("0", 0.0), "features do not vary .* at layer '1'"),
        ("saliency", None, ("2", 0.0), "gradient is zero at the input .*the map of Saliency"),
        ("gbp", None, None, "No positive gradient reaches the input .*Guided Backprop"),
    ],
)
def test_the_reason_is_said_once(method, layer, change, says):
    net = against()
    if change is not None:
        module, value = change
        nn.init.constant_(net[int(module)].weight, value)
        if module == "0":
            nn.init.constant_(net[0].bias, 1.0 if value == 0 else -1.0)
    with pytest.warns(MedcamWarning, match=says) as told:
        found = medcam.explain(net, image(), layer=layer, method=method, target=class_score(1))
    assert not found.map.values.any()
    assert len(told) == 1


def test_a_method_of_ones_own_may_have_reasons_of_its_own():
    def squared(activations, gradients):
        return (activations * gradients).sum(1).relu()  # medcam cannot know of this ReLU

    method = medcam.methods.Method("own", squared, "Own")
    with pytest.warns(MedcamWarning, match="There is evidence, but none that this method shows"):
        medcam.explain(against(), image(), layer="1", method=method, target=class_score(1))


def test_several_methods_and_layers_share_a_warning():
    with pytest.warns(
        MedcamWarning, match="Everything at layers '1', '0' .* map of Grad-CAM and Grad-CAM"
    ) as told:
        medcam.explain(
            against(), image(), layer=["0", "1"], method=["gcam", "gcampp", "hirescam"],
            target=class_score(1),
        )  # fmt: skip
    assert len(told) == 1


def test_the_targets_are_named():
    net = nn.Sequential(*against()[:2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    with torch.no_grad():
        net[-1].weight.copy_(torch.tensor([[1.0] * 3, [-1.0] * 3, [-2.0] * 3]))
    with pytest.warns(
        MedcamWarning, match=r"against .* in sample\(s\) 0, 1, target\(s\) 1, 2: the"
    ):
        medcam.explain(net.eval(), image(), layer="1", method="gcam", target="all")


def test_an_empty_target_is_the_one_reason():
    empty = torch.zeros(8, 8)
    with pytest.warns(MedcamWarning) as told:
        medcam.explain(against(), image(), layer="1", method="hirescam",
                       target=medcam.targets.region(empty, 1))  # fmt: skip
    assert [str(item.message).split(":")[0] for item in told] == [
        "The target is empty for sample(s) 0, 1"
    ]


def test_a_window_without_evidence_is_no_blank_volume():
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1)).eval()
    nn.init.uniform_(net[0].weight, 0.1, 1.0)
    nn.init.constant_(net[0].bias, 0.0)
    nn.init.uniform_(net[2].weight, 0.1, 1.0)
    x = image(batch=1, size=24)
    x[..., :12] = 0  # the features of these windows are zero
    found = medcam.explain_volume(net, x, 12, overlap=0, layer="1", target=class_score(1))
    assert found.map.values.any()


@pytest.mark.parametrize("channel_weights", ["window", "volume"])
def test_a_volume_says_that_everything_speaks_against_the_target(channel_weights):
    net = against()
    net[0].padding = net[2].padding = (1, 1)
    with pytest.warns(MedcamWarning, match="Everything at layer '1' speaks against") as told:
        medcam.explain_volume(
            net, image(size=24), 12, layer="1", method="gcam", target=class_score(1),
            channel_weights=channel_weights,
        )  # fmt: skip
    assert len(told) == 1


def test_training_mode_is_named_as_the_cause():
    """K11: a program that never calls eval(), with a batch norm behind the layer."""
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip
    model = medcam.inject(net, layer="3")
    with pytest.warns(MedcamWarning) as told:
        model(image(batch=1, size=32))
    texts = [str(item.message) for item in told]
    assert "training mode" in texts[0]
    assert "cancel at layer '3'" in texts[1]
    assert "(batch normalisation in training mode)" in texts[1]
    assert texts[1].endswith("Call model.eval() first.")
    assert "instance norm" not in texts[1]


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
