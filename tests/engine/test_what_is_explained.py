"""What is explained of an output is right, or said: logits, regions, regressions, several."""

from __future__ import annotations

import gc
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import medcam
from medcam.errors import MedcamWarning
from medcam.targets import class_score, classes, region_class, value, where


class Encoder(nn.Module):
    """Two strided convolutions and the pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.a(x))))


class Net(nn.Module):
    """A network whose output is made by a function of its parts."""

    def __init__(self, forward, outputs: int = 3, **parts: nn.Module) -> None:
        super().__init__()
        self.enc, self.fc, self._forward = Encoder(), nn.Linear(16, outputs), forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor):
        return self._forward(self, x)


def pooled(net: Net, x: Tensor) -> Tensor:
    return net.enc(x).mean((2, 3))


ASK = {"layer": "enc", "method": "hirescam", "shape": None}
X = torch.rand(2, 1, 32, 32)


def of_output(net: nn.Module, output, target=None) -> Tensor:
    return medcam.explain(net, X, output=output, target=target, **ASK).map.values


# ------------------------------------------------------------------------------- several tensors


def features_and_logits(net, x):
    f = pooled(net, x)
    return f, net.fc(f)


def logits_and_features(net, x):
    return features_and_logits(net, x)[::-1]


def logits_and_reconstruction(net, x):
    return net.fc(pooled(net, x)), net.dec(F.interpolate(net.enc(x), (32, 32)))


def map_and_logits(net, x):
    return net.enc(x), net.fc(pooled(net, x))


@pytest.mark.parametrize(
    ("forward", "right"),
    [
        (features_and_logits, 1), (logits_and_features, 0), (logits_and_reconstruction, 0),
        (map_and_logits, 1),
    ],
)  # fmt: skip
def test_the_logits_are_taken_where_the_shape_tells(forward, right):
    net = Net(forward, dec=nn.Conv2d(16, 1, 1)).eval()
    with pytest.warns(MedcamWarning, match=r"returns several tensors .* is explained") as told:
        found = medcam.explain(net, X, target=1, **ASK)
    assert f"output[{right}] is explained" in str(told[0].message)
    assert torch.equal(found.map.values, of_output(net, right, 1))
    with warnings.catch_warnings():  # a choice is not warned of
        warnings.simplefilter("error")
        of_output(net, right, 1)


def test_a_segmentation_with_a_label_is_the_segmentation():
    def forward(net, x):
        return net.dec(F.interpolate(net.enc(x), (32, 32))), net.fc(pooled(net, x))

    net = Net(forward, dec=nn.Conv2d(16, 1, 1)).eval()  # as many channels as the image
    with pytest.warns(
        MedcamWarning, match=r"output\[0\] is explained, the one of the input's size"
    ):
        found = medcam.explain(net, X, target=1, **ASK)
    assert found.target.task == "segmentation"


# ------------------------------------------------------------------------------------ regressions


def one_output(net, x):
    return net.fc(pooled(net, x))


def test_a_regression_is_explained_by_its_value():
    net = Net(one_output, outputs=1).eval()
    nn.init.constant_(net.fc.bias, -3.0)
    with pytest.warns(MedcamWarning, match=r"negative in sample\(s\) 0, 1.*targets.value\(0\)"):
        low = medcam.explain(net, X, **ASK).map.values
    high = medcam.explain(net, X, target=value(), **ASK)
    assert torch.equal(high.map.values, -low)
    assert str(high.target) == "the value of output 0"
    nn.init.constant_(net.fc.bias, 3.0)
    with warnings.catch_warnings():  # the sign is that of the value
        warnings.simplefilter("error")
        assert torch.equal(medcam.explain(net, X, **ASK).map.values, high.map.values)


def test_one_of_several_values():
    net = Net(one_output).eval()
    found = medcam.explain(net, X, target=value(2), **ASK).map.values
    assert torch.equal(found, medcam.explain(net, X, target=2, **ASK).map.values)
    with pytest.raises(medcam.errors.TargetError, match="Channel 3 does not exist"):
        medcam.explain(net, X, target=value(3), **ASK)


# ----------------------------------------------------------------------------- softmax and sigmoid

FINAL = {
    "softmax": lambda z: z.softmax(1), "F.softmax": lambda z: F.softmax(z, dim=1),
    "Softmax": nn.Softmax(1), "last axis": lambda z: torch.softmax(z, -1),
    "log-softmax": lambda z: F.log_softmax(z, 1), "sigmoid": torch.sigmoid,
    "Sigmoid": nn.Sigmoid(), "a view of it": lambda z: torch.sigmoid(z)[None][0],
}  # fmt: skip


class Squashed(nn.Module):
    def __init__(self, net: nn.Module, final) -> None:
        super().__init__()
        self.net, self.final = net, final

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.net(x))


@pytest.mark.parametrize("final", FINAL)
@pytest.mark.parametrize("target", [None, 1, "all", classes(0, 2), class_score(1)])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_classifier_is_explained_at_its_logits(final, target, scale):
    net = Net(one_output).eval()
    with torch.no_grad():
        net.fc.weight *= scale  # so certain that probabilities have no gradient
    expected = medcam.explain(net, X, target=target, **ASK)
    with pytest.warns(MedcamWarning, match="ends in a .* Its logits are explained"):
        found = medcam.explain(
            Squashed(net, FINAL[final]).eval(), X, target=target, **{**ASK, "layer": "net.enc"}
        )
    assert torch.equal(found.map.values, expected.map.values)
    assert found.details["model_ends_in"] in final.lower() or final in ("last axis", "a view of it")


@pytest.mark.parametrize("layer", ["auto", "net.enc"])
@pytest.mark.parametrize("grad", [False, True])
def test_an_injected_model_is_explained_at_its_logits(layer, grad):
    net = Net(one_output).eval()
    expected = medcam.explain(net, X, layer="enc", method="gcam").map.values
    model = medcam.inject(Squashed(net, nn.Sigmoid()).eval(), layer=layer, normalize=False)
    with torch.set_grad_enabled(grad), pytest.warns(MedcamWarning, match="Its logits are"):
        output = model(X)
    assert torch.equal(output, torch.sigmoid(net(X)))
    assert torch.allclose(torch.as_tensor(model.get_attention_map()), expected)


def test_a_function_of_the_output_is_given_the_output():
    net = Net(one_output).eval()
    model = Squashed(net, nn.Softmax(1)).eval()
    with pytest.warns(MedcamWarning, match="Its gradient vanishes"):
        found = medcam.explain(
            model, X, target=lambda p: p[:, 1].log(), **{**ASK, "layer": "net.enc"}
        )
    wanted = medcam.explain(net, X, target=lambda z: z.log_softmax(1)[:, 1], **ASK)
    assert torch.allclose(found.map.values, wanted.map.values, atol=1e-6)


def test_attention_weights_are_no_output():
    def forward(net, x):
        f = net.enc(x).flatten(2)
        weights = torch.softmax(f.transpose(1, 2) @ f, -1)
        return net.fc((f @ weights).mean(2))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        medcam.explain(Net(forward).eval(), X, target=1, **ASK)


# ---------------------------------------------------------------------------------------- regions


class Regions(nn.Module):
    """Three regions: 0 core, inside 1 whole, and 2, which is nowhere."""

    def __init__(self, final=None) -> None:
        super().__init__()
        self.c, self.h, self.final = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1), final

    def forward(self, x: Tensor) -> Tensor:
        y = torch.full((len(x), 3, 32, 32), -4.0)
        y[:, 1, 8:24, 8:24] += 9
        y[:, 0, 12:20, 12:20] += 12
        y = y + 1e-3 * self.h(torch.relu(self.c(x)))
        return y if self.final is None else self.final(y)


def with_weights(final) -> tuple[Regions, Regions]:
    """Return a network that ends in a function, and one that returns its logits."""
    plain = Regions().eval()
    squashed = Regions(final).eval()
    squashed.load_state_dict(plain.state_dict())
    return squashed, plain


def explain_whole(net, target):
    return medcam.explain(net, X, layer="c", target=target, method="hirescam")


def explain_windows(net, target):
    return medcam.explain_volume(net, X, 32, layer="c", target=target, method="hirescam")


@pytest.mark.parametrize("explain", [explain_whole, explain_windows])
@pytest.mark.parametrize(
    ("target", "voxels"),
    [(None, 256), (0, 64), (1, 256), ("best", 256), ([1, 0], [256, 64]), (region_class(1), 256)],
)
def test_regions_behind_a_sigmoid_are_regions(explain, target, voxels):
    squashed, plain = with_weights(torch.sigmoid)
    with pytest.warns(MedcamWarning, match="ends in a sigmoid. Its logits are explained"):
        found = explain(squashed, target)
    assert found.target.voxels.flatten().tolist() == (
        voxels if isinstance(voxels, list) else [voxels] * 2
    )
    if target in (0, 1):
        expected = explain(plain, region_class(target))
        assert torch.allclose(found.map.values, expected.map.values, atol=1e-9)
        assert expected.target.voxels.tolist() == [[voxels]] * 2


def test_every_region_has_a_map():
    with pytest.warns(MedcamWarning) as told:
        found = explain_whole(with_weights(torch.sigmoid)[0], "all")
    assert found.target.voxels[0].tolist()[:2] == [64, 256]
    assert any("nowhere predicted" in str(item.message) for item in told)  # region 2


@pytest.mark.parametrize("target", [None, 1, "best", [1, 1]])
@pytest.mark.parametrize("explain", [explain_whole, explain_windows])
def test_logits_that_look_like_regions_are_warned_of(explain, target):
    with pytest.warns(
        MedcamWarning, match="Two channels are positive in many .* 0, 1, .*region_cl"
    ):
        explain(Regions().eval(), target)


@pytest.mark.parametrize("target", [region_class(1), classes(1), class_score(1),
                                    where(lambda z: z[:, 1] > 0, k=1)])  # fmt: skip
def test_whoever_says_which_it_is_is_not_warned(target):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain_whole(Regions().eval(), target)


def test_classes_that_exclude_each_other_are_not_warned_of():
    class Exclusive(Regions):
        def forward(self, x):
            y = super().forward(x)
            return torch.cat([3 - y[:, :2].amax(1, keepdim=True), y[:, :2]], 1)  # background first

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain_whole(Exclusive().eval(), 1)


def test_a_softmax_keeps_classes_exclusive():
    squashed, plain = with_weights(nn.Softmax(1))
    with pytest.warns(MedcamWarning, match="ends in a softmax"):
        found = explain_whole(squashed, classes(1))
    assert torch.equal(found.map.values, explain_whole(plain, classes(1)).map.values)


@pytest.mark.parametrize("explain", [explain_whole, explain_windows])
def test_one_channel_behind_a_sigmoid_is_positive_above_one_half(explain):
    class One(Regions):
        def forward(self, x):
            return torch.sigmoid(super().forward(x)[:, 1:2])

    net = One().eval()
    for target in (None, 1, region_class(1)):
        with pytest.warns(MedcamWarning, match="ends in a sigmoid"):
            assert explain(net, target).target.voxels.tolist() == [[256]] * 2


@pytest.mark.parametrize("final", [lambda z: z.softmax(1), torch.sigmoid])
@pytest.mark.parametrize("first", [True, False])
def test_logits_beside_their_probabilities_are_the_logits(final, first):
    def forward(net, x):
        z = net.fc(pooled(net, x))
        return (z, final(z)) if first else (final(z), z)

    net = Net(forward).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = medcam.explain(net, X, target=1, **ASK)
    assert torch.equal(found.map.values, of_output(net, 0 if first else 1, 1))


def test_probabilities_that_are_changed_afterwards_are_no_longer_those_of_the_logits():
    def halved(z):
        p = torch.sigmoid(z).clone()
        p *= 0.5
        return p

    model = Squashed(Net(one_output).eval(), halved).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = medcam.explain(model, X, target=1, **{**ASK, "layer": "net.enc"})
    assert "model_ends_in" not in found.details


def test_a_gate_is_no_end():
    model = Squashed(Net(one_output).eval(), lambda z: z * torch.sigmoid(z)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        medcam.explain(model, X, target=1, **{**ASK, "layer": "net.enc"})


@pytest.mark.parametrize("final", [nn.Softmax(1), nn.Sigmoid()])
def test_every_layer_is_explained_at_the_logits(final):
    net = Net(one_output).eval()
    expected = medcam.explain(net, X, target=1, layer="full", method="hirescam").maps
    with pytest.warns(MedcamWarning, match="Its logits are explained"):
        found = medcam.explain(
            Squashed(net, final).eval(), X, target=1, layer="full", method="hirescam"
        )
    assert found.details["model_ends_in"]
    assert torch.equal(found.maps["net.enc"].values, expected["enc"].values)


def test_a_bag_of_slices_behind_a_softmax():
    def forward(net, x):
        return net.fc(pooled(net, x).amax(0, keepdim=True)).softmax(1)

    with pytest.warns(MedcamWarning, match="ends in a softmax. Its logits"):
        medcam.explain(Net(forward).eval(), torch.rand(5, 1, 32, 32), target=1, layer="enc")


def test_a_coarse_segmentation_behind_a_sigmoid():
    net = nn.Sequential(Encoder(), nn.Conv2d(16, 2, 1), nn.Sigmoid()).eval()
    with pytest.warns(MedcamWarning) as told:
        assert medcam.explain(net, X, target=1, layer="0").target.regions
    assert "ends in a sigmoid. Its logits" in str(told[0].message)


def test_a_stitched_mean_may_exceed_one_by_rounding():
    squashed, _ = with_weights(torch.sigmoid)
    with torch.no_grad():
        logits = squashed(X) * (1 + 1e-6)
    with pytest.warns(MedcamWarning, match="ends in a sigmoid"):
        found = medcam.explain_volume(
            squashed, X, 32, layer="c", target=1, method="hirescam", logits=logits
        )
    assert found.target.voxels.tolist() == [[256]] * 2


def test_no_graph_is_kept_by_the_hooks_of_an_injected_model():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2), nn.Softmax(1),
    ).train()  # fmt: skip
    model = medcam.inject(net, layer="2", label=1)
    alive = []
    for _ in range(4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = model(X.clone().requires_grad_())
        output.sum().backward()
        del output
        gc.collect()
        alive.append(sum(type(item) is Tensor for item in gc.get_objects()))
    assert alive[1] == alive[2] == alive[3]
