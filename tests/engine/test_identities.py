"""Identities that hold for any weights: closed forms, symmetries, equivalent networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import medcam
from medcam.methods import METHODS
from medcam.targets import class_score
from support.methods import ONCE
from support.nets import Classifier, UNet, conv, image

CAM_FAMILY = [
    name for name, method in METHODS.items() if method.evidence == {"activations", "gradients"}
]


def assert_same(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def maps_of(net, x, method, layer, target=0, shape=None):
    """Return the maps of one target, ``[batch, *space]``."""
    return medcam.explain(
        net, x, method=method, layer=layer, target=target, shape=shape
    ).map.values[:, 0]


def positive(net):
    """Return a network with positive head weights, so no Grad-CAM map is zero."""
    net.head.weight.data.abs_()
    return net


# -------------------------------------------------------------------------- closed-form networks


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("positive", [True, False])
def test_global_pooling_and_one_linear_layer(dims, positive):
    """Z·Grad-CAM = CAM = Z·HiResCAM = Z·XGrad-CAM, and HiResCAM sums to y - b."""
    net, x = Classifier(dims).double().eval(), image(dims, size=8).double()
    signs = torch.tensor([1.0] if positive else [1.0, -9.0]).repeat(8)[:8]
    net.head.weight.data.abs_().mul_(signs)  # all positive: the ReLU hides nothing
    with torch.no_grad():
        A, y = net.features(x), net(x)
    Z = A[0, 0].numel()
    for c in range(3):
        cam = torch.einsum("k,bk...->b...", net.head.weight[c].detach(), A)
        assert (cam.min() >= 0) == positive
        assert_same(Z * maps_of(net, x, "gcam", "features", c), cam.relu(), 1e-14)
        assert_same(Z * maps_of(net, x, "xgradcam", "features", c), cam.relu(), 1e-14)
        hires = maps_of(net, x, "hirescam", "features", c)
        assert_same(Z * hires, cam, 1e-14)
        assert_same(hires.flatten(1).sum(1), y[:, c] - net.head.bias[c].detach(), 1e-14)


@pytest.mark.parametrize("dims", [2, 3])
def test_one_linear_layer_on_all_features(dims):
    """HiResCAM sums to y - b; Grad-CAM, which averages over positions, does not."""
    net = nn.Sequential(conv(dims, 1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 4**dims, 3))
    net, x = net.double().eval(), image(dims, size=6).double()
    for c in range(3):
        share = net(x)[:, c].detach() - net[3].bias[c].detach()
        assert_same(maps_of(net, x, "hirescam", "1", c).flatten(1).sum(1), share, 1e-14)
        A = net[:2](x).detach()
        weights = net[3].weight[c].detach().reshape(A.shape[1:]).flatten(1).mean(1)
        signed = torch.einsum("k,bk...->b...", weights, A)
        assert_same(maps_of(net, x, "gcam", "1", c), signed.relu(), 1e-14)
        assert (signed.flatten(1).sum(1) - share).abs().min() > 1e-3


# ------------------------------------------------------------------------------------ symmetries


def strided(dims, head):
    """Two convolutions, the second with a stride in the plane; 3D kernels live in their centre."""
    stride = (1, 2, 2)[-dims:]
    net = nn.Sequential(
        conv(dims, 2, 4, 3, padding=1),
        nn.LeakyReLU(0.1),
        conv(dims, 4, 6, 3, stride=stride, padding=1),
        nn.ReLU(),
        conv(dims, 6, 3, 1),
    )
    if head == "classification":
        net.extend([{2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dims](1), nn.Flatten()])
    return net.double().eval()


@pytest.mark.parametrize("head", ["classification", "segmentation"])
@pytest.mark.parametrize("method", ONCE)
def test_a_volume_of_one_slice_is_an_image(method, head):
    flat, deep = strided(2, head), strided(3, head)
    for two, three in zip(flat.parameters(), deep.parameters(), strict=True):
        three.data.zero_()
        if two.ndim == 4:
            three.data[:, :, three.shape[2] // 2] = two.data
        else:
            three.data.copy_(two.data)
    x = torch.rand(2, 2, 8, 10).double()
    target = 1 if head == "classification" else class_score(1)
    kwargs = {"method": method, "layer": "3", "target": target}
    image_map = medcam.explain(flat, x, **kwargs).map
    volume_map = medcam.explain(deep, x[:, :, None], **kwargs).map
    assert_same(volume_map.values[:, :, 0], image_map.values)
    assert image_map.values.any()
    if image_map.channels is not None:
        assert_same(volume_map.channels[:, :, :, 0], image_map.channels)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", ONCE)
def test_maps_shift_with_the_input(method, dims):
    circular = {"padding": 1, "padding_mode": "circular"}
    net = Classifier(dims)
    net.features = nn.Sequential(
        conv(dims, 1, 6, 3, **circular), nn.ReLU(), conv(dims, 6, 8, 3, **circular), nn.ReLU()
    )
    net, x = positive(net.double().eval()), image(dims, size=8).double()
    axes, shift = (-1, -2, -3)[:dims], (2, 4, 6)[:dims]  # whole windows of Seg-XRes-CAM
    plain = maps_of(net, x, method, "features", shape="input")
    shifted = maps_of(net, x.roll(shift, axes), method, "features", shape="input")
    assert_same(shifted, plain.roll(shift, axes))
    assert (shifted - plain).abs().max() > plain.abs().max() / 10


@pytest.mark.parametrize("make", [Classifier, UNet])
@pytest.mark.parametrize("method", ONCE)
def test_a_logit_times_a_positive_number(method, make):
    """Normalised maps do not change, except Grad-CAM++; powers of two are exact."""
    net, x = positive(make(2).double().eval()), image().double()
    layer, target = ("features", 1) if make is Classifier else ("bottleneck", class_score(1))

    def shown():
        return medcam.explain(net, x, method=method, layer=layer, target=target).map.normalized()

    before = shown()
    for factor, tolerance in ((8, 0), (7, 1e-12)):
        with torch.no_grad():
            for parameter in net.head.parameters():
                parameter *= factor
        if method == "gcampp":
            assert (shown() - before).abs().max() > 1e-3
        else:
            assert_same(shown(), before, tolerance)
    assert before.abs().amax() == 1


@pytest.mark.parametrize("method", CAM_FAMILY)
def test_channels_in_other_units(method):
    """A → cA, G → G/c: what a normalisation layer could undo changes no map."""
    A, G = torch.randn(2, 3, 5, 4, 4, 4).double()
    c = torch.tensor([1.0, 2, 0.25, 128, 0.5]).double().reshape(-1, 1, 1, 1)
    function = METHODS[method].function
    assert_same(function(A * c, G / c), function(A, G), 1e-14)
    c = torch.rand(c.shape).double() * 10
    assert_same(function(A * c, G / c), function(A, G))


# --------------------------------------------------------------------- equivalent networks


class InPlace(nn.Module):
    def forward(self, x):
        return x.relu_()


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


SHARED = nn.ReLU()
RELUS = {
    "module": nn.ReLU,
    "module in place": lambda: nn.ReLU(inplace=True),
    "shared module": lambda: SHARED,
    "F.relu": lambda: Functional(F.relu),
    "F.relu in place": lambda: Functional(lambda x: F.relu(x, inplace=True)),
    "torch.relu": lambda: Functional(torch.relu),
    "x.relu_()": InPlace,
    "clamp": lambda: Functional(lambda x: x.clamp(min=0)),
    "maximum": lambda: Functional(lambda x: torch.maximum(x, torch.zeros_like(x))),
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", RELUS)
@pytest.mark.parametrize("method", ["gbp", "ggcam"])
def test_every_way_to_write_a_relu_is_guided_alike(method, kind, dims):
    net, x = positive(Classifier(dims).double().eval()), image(dims, size=8).double()
    expected = maps_of(net, x, method, "features", shape="input")
    net.features[1], net.features[4] = RELUS[kind](), RELUS[kind]()
    assert torch.equal(maps_of(net, x, method, "features", shape="input"), expected)
    assert expected.any()


class Mixed(nn.Module):
    """Further operations that medical networks use."""

    def __init__(self, dims, *, inplace):
        super().__init__()
        d = {2: "2d", 3: "3d"}[dims]
        self.stem = nn.Sequential(
            getattr(nn, f"Conv{d}")(1, 4, 3, padding=1, bias=False),
            getattr(nn, f"BatchNorm{d}")(4),
            nn.PReLU(4),
            getattr(nn, f"AvgPool{d}")(2),
        )
        self.block = nn.Sequential(
            getattr(nn, f"Conv{d}")(4, 4, (3, 1, 3)[:dims], padding=(1, 0, 1)[:dims], groups=2),
            getattr(nn, f"InstanceNorm{d}")(4),
            nn.ReLU(inplace),
        )
        self.up = getattr(nn, f"ConvTranspose{d}")(4, 4, 2, stride=2)
        self.head = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU(inplace), conv(dims, 4, 3, 1))
        with torch.no_grad():
            self.stem[1].running_mean.normal_()
            self.stem[1].running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.up(x + self.block(x)))


NETS = {
    "classifier": (Classifier, 1, ["features.0", "features.1", "features.2", "features"]),
    "u-net": (UNet, class_score(1), ["down.0", "down", "bottleneck", "up", "decoder.0", "head"]),
    "mixed": (Mixed, class_score(1), ["stem.1", "stem", "block.0", "block", "up", "head.0"]),
}


def naive(net, x, layers):
    """Compute maps with the whole graph, parameters included; the network gets copies."""
    kept, handles = {}, []
    for name in layers:

        def keep(module, inputs, output, name=name):
            kept[name] = output
            return output.clone()

        handles.append(net.get_submodule(name).register_forward_hook(keep))
    output = net(x.clone().requires_grad_())
    for handle in handles:
        handle.remove()
    score = output[:, 1:2].flatten(1).mean(1).sum()
    grads = torch.autograd.grad(score, [kept[name] for name in layers])
    return {name: (kept[name].detach(), grad) for name, grad in zip(layers, grads, strict=True)}


@pytest.mark.filterwarnings("ignore:The activations of each channel cancel")  # XGrad-CAM
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", NETS)
@pytest.mark.filterwarnings("ignore:The gradients of each channel cancel")
def test_lean_and_full_and_all_layers_at_once_are_bit_identical(kind, inplace, dims):
    make, target, layers = NETS[kind]
    net, x = make(dims, inplace=inplace).eval(), image(dims, size=8)
    ask = {"method": CAM_FAMILY, "target": target, "shape": None}
    together = medcam.explain(net, x, layer=layers, **ask)
    full = medcam.explain(net, x, layer="full", **ask)
    assert torch.equal(together.output, net(x))
    for layer, (A, G) in naive(net, x, layers).items():
        alone = medcam.explain(net, x, layer=layer, **ask)
        for method in CAM_FAMILY:
            expected = METHODS[method].function(A, G)[:, None]
            for found in (alone, together, full):
                assert torch.equal(found.maps[method, layer].values, expected)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.filterwarnings("ignore:The gradients of each channel cancel")
def test_an_in_place_activation_after_the_layer_changes_nothing(kind):
    make, target, layers = NETS[kind]
    net, x = make(2, inplace=False).eval(), image()
    other = make(2, inplace=True).eval()
    other.load_state_dict(net.state_dict())
    ask = {"method": [*CAM_FAMILY, "eigencam"], "layer": layers, "target": target}
    kept, after = medcam.explain(net, x, **ask), medcam.explain(other, x, **ask)
    assert kept.maps.keys() == after.maps.keys()
    assert all(torch.equal(kept.maps[key].values, after.maps[key].values) for key in kept.maps)
