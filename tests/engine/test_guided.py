"""Guided backpropagation against one written by hand, for every activation function."""

# ruff: noqa: N803 (R is the paper's symbol)

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import medcam
from medcam.engine import guided
from medcam.errors import MedcamWarning, NoMapError
from support.nets import conv, image

NEGATIVE = 0.3  # the slope of the leaky ones

RECTIFIERS = {
    "ReLU": F.relu,
    "relu_": lambda z: z.clone().relu_(),
    "ReLU module": nn.ReLU(),
    "LeakyReLU": nn.LeakyReLU(NEGATIVE),
    "leaky_relu": lambda z: F.leaky_relu(z, NEGATIVE),
    "leaky_relu_": lambda z: F.leaky_relu_(z.clone(), NEGATIVE),
    "PReLU": nn.PReLU(init=NEGATIVE),
    "PReLU of each channel": nn.PReLU(7, init=NEGATIVE),
    "ReLU6": nn.ReLU6(),
    "Hardtanh": nn.Hardtanh(0, 2),
    "clamp": lambda z: z.clamp(min=0),
    "clamp to a tensor": lambda z: z.clamp(min=torch.zeros(())),
    "clamp on both sides": lambda z: z.clamp(0, 2),
    "clamp_min": lambda z: torch.clamp_min(z, 0),
    "clamp_": lambda z: z.clone().clamp_(min=0),
    "maximum": lambda z: torch.maximum(z, torch.zeros_like(z)),
    "maximum, the other way": lambda z: torch.maximum(torch.zeros(()), z),
    "max of two": lambda z: torch.max(z, torch.zeros(())),
    "Threshold": nn.Threshold(0.2, 0.0),
    "ELU": nn.ELU(0.7),
    "SELU": nn.SELU(),
    "CELU": nn.CELU(0.7),
    "GELU": nn.GELU(),
    "GELU by tanh": nn.GELU("tanh"),
    "SiLU": nn.SiLU(),
    "Mish": nn.Mish(),
    "Hardswish": nn.Hardswish(),
    "Softplus": nn.Softplus(),
    "RReLU": nn.RReLU(0.1, 0.5),
}
OTHERS = {
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Softsign": F.softsign,
    "abs": torch.abs,
    "clamp below 0": lambda z: z.clamp(min=-0.5),
    "clamp from above": lambda z: z.clamp(max=0.5),
    "maximum with 1": lambda z: torch.maximum(z, torch.ones(())),
    "maximum of two features": lambda z: torch.maximum(z, z.flip(1)),
    "softmax": lambda z: z.softmax(1),
}


class Dense(nn.Module):
    """Three linear layers on the pixels with an activation function between them."""

    def __init__(self, first, second=None):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(20, 7), nn.Linear(7, 7), nn.Linear(7, 3)])
        self.first, self.second = first, second or first
        with torch.no_grad():
            self.layers[0].weight *= 12  # so that ReLU6 and Hardtanh reach their ends

    def forward(self, x):
        z = self.layers[0](x.flatten(1))
        z = self.layers[1](self.first(z))
        return self.layers[2](self.second(z))


def through(function, z, R):
    """Return R ⊙ f'(z), the plain gradient through an activation function."""
    z = z.detach().requires_grad_()
    return torch.autograd.grad(function(z), z, R)[0]


def by_hand(net, x, k, guide=(True, True)):
    """Backpropagation in matrices; entering a rectifier, the gradient is clamped at 0."""
    W = [layer.weight.detach() for layer in net.layers]
    z = [net.layers[0](x.flatten(1))]
    z.append(net.layers[1](net.first(z[0])))
    R = W[2][k].expand(len(x), -1)
    R = through(net.second, z[1], R.clamp(min=0) if guide[1] else R) @ W[1]
    R = through(net.first, z[0], R.clamp(min=0) if guide[0] else R) @ W[0]
    return R.reshape(x.shape)


def network(*functions):
    net = Dense(*functions).double().eval()
    return net, torch.randn(3, 2, 5, 2).double()


def guided_map(net, x, k=1):
    """The signed values ``[batch, channels, *space]``."""
    return medcam.explain(net, x, method="gbp", target=k).map.channels[:, 0]


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", RECTIFIERS)
def test_rectifiers(kind):
    net, x = network(RECTIFIERS[kind])
    for k in range(3):
        found = guided_map(net, x, k)
        assert_same(found, by_hand(net, x, k))
        assert (found - by_hand(net, x, k, guide=(False, False))).abs().max() > 1e-3


@pytest.mark.parametrize("kind", OTHERS)
def test_other_functions_are_not_touched(kind):
    net, x = network(OTHERS[kind], F.relu)
    assert_same(guided_map(net, x), by_hand(net, x, 1, guide=(False, True)))


@pytest.mark.parametrize("kind", OTHERS)
def test_without_a_rectifier_there_is_no_guided_map(kind):
    net, x = network(OTHERS[kind])
    with pytest.raises(NoMapError) as error:
        guided_map(net, x)
    assert "No rectifier" in str(error.value)
    assert "LeakyReLU" in str(error.value)
    assert "'saliency'" in str(error.value)
    plain = medcam.explain(net, x, method="saliency", target=1).map.channels[:, 0]
    assert_same(plain, by_hand(net, x, 1, guide=(False, False)))


@pytest.mark.parametrize("kind", ["ReLU", "LeakyReLU", "PReLU", "ELU", "SELU", "CELU", "Softplus"])
def test_for_monotonic_functions_clamping_before_and_after_is_the_same(kind):
    """Springenberg's rule clamps after the derivative, which is never negative here."""
    f = RECTIFIERS[kind]
    R, z = torch.randn(2, 100).double()
    assert_same(
        through(f.double() if isinstance(f, nn.Module) else f, z, R.clamp(min=0)),
        through(f, z, R).clamp(min=0),
    )


class PreActivation(nn.Module):
    """x + W₂ f(W₁ f(x)): the skip connection goes around both rectifiers."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two, self.head = (
            nn.Linear(a, b, bias=False) for a, b in ((20, 7), (7, 7), (7, 7), (7, 3))
        )
        self.f = nn.ReLU()

    def forward(self, x):
        x = self.stem(x.flatten(1))
        return self.head(x + self.two(self.f(self.one(self.f(x)))))


def test_a_skip_connection_is_not_clamped():
    net, x = PreActivation().double().eval(), torch.randn(3, 2, 5, 2).double()
    s, one, two, head = (layer.weight.detach() for layer in (net.stem, net.one, net.two, net.head))
    z = x.flatten(1) @ s.T
    skip = head[1].expand(3, -1)
    branch = (skip @ two).clamp(min=0) * ((z.relu() @ one.T) > 0)
    branch = (branch @ one).clamp(min=0) * (z > 0)
    assert_same(guided_map(net, x), ((skip + branch) @ s).reshape(x.shape))
    assert (((skip.clamp(min=0) + branch) - (skip + branch)) @ s).abs().max() > 1e-3


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("rectifier", [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU])
def test_in_place_after_an_instance_norm_as_in_nnunet(rectifier, dims):
    norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims]
    net = nn.Sequential(
        *(conv(dims, 1, 4, 3), norm(4, affine=True), rectifier()),
        *(conv(dims, 4, 6, 3), norm(6, affine=True), rectifier(), nn.Flatten(), nn.LazyLinear(3)),
    )
    x = image(dims, size=7).double()
    net(x.float())
    net = net.double().eval()
    expected = guided_map(net, x)
    net[2].inplace = net[5].inplace = True
    assert_same(guided_map(net, x), expected)
    assert expected.any()


def test_a_map_is_the_value_of_the_largest_magnitude_over_the_channels():
    net, x = network(F.relu)
    found = medcam.explain(net, x, method="gbp", target=1).map
    largest = found.channels.abs().argmax(2, keepdim=True)
    assert torch.equal(found.values, found.channels.gather(2, largest)[:, :, 0])
    assert found.signed
    assert found.values.min() < 0 < found.values.max()


def test_guided_grad_cam_takes_the_plain_gradient_for_its_weights():
    conv = nn.Conv2d(2, 5, 3, padding=1)
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(50, 6), nn.ReLU(), nn.Linear(6, 3))
    net, x = net.double().eval(), torch.randn(3, 2, 5, 2).double()
    ask = {"layer": "0", "target": 1}
    found = medcam.explain(net, x, method=["gcam", "gbp", "ggcam"], **ask).maps
    alone = medcam.explain(net, x, method="gcam", **ask).map.values
    assert torch.equal(found["gcam", "0"].values, alone)
    product = found["gbp", None].channels * alone[:, :, None]
    assert_same(found["ggcam", "0"].channels, product)
    assert product.any()


# ------------------------------------------------------------ nodes that may hide rectifiers


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def half_in_place(z):
    z = z.clone()
    z[:, :3].relu_()
    return z


def half(z):
    return torch.cat([z[:, :3].relu(), z[:, 3:]], 1)


def test_in_place_rectifiers_on_views_are_found():
    net, x = network(half_in_place, F.relu)
    same, _ = network(half, F.relu)
    same.load_state_dict(net.state_dict())
    assert_same(guided_map(net, x), guided_map(same, x))
    assert_same(guided_map(Dense(half_in_place).double(), x) != 0, torch.ones_like(x) > 0)


def test_a_warning_names_opaque_nodes():
    net, x = network(Twice.apply, F.relu)
    with pytest.warns(MedcamWarning, match=r"TwiceBackward \(a custom autograd function\)"):
        found = guided_map(net, x)
    assert_same(found, by_hand(net, x, 1, guide=(False, True)))
    with pytest.raises(NoMapError, match="No rectifier"):
        guided_map(Dense(Twice.apply).double(), x)


def test_rectifiers_in_a_checkpointed_part_are_found():
    net, x = network(lambda z: checkpoint(F.relu, z, use_reentrant=False), F.relu)
    assert_same(guided_map(net, x), by_hand(net, x, 1))


# ------------------------------------------------------------------- the graph is left unchanged


def test_rectified_counts_the_rectifiers_and_ends():
    net, x = network(F.relu, nn.PReLU(init=NEGATIVE).double())
    x.requires_grad_()
    score = net(x)[:, 1]
    (before,) = torch.autograd.grad(score.sum(), x, retain_graph=True)
    with guided.rectified(score) as count:
        (inside,) = torch.autograd.grad(score.sum(), x, retain_graph=True)
    assert count == 2
    with pytest.raises(KeyError), guided.rectified(score):
        raise KeyError
    (after,) = torch.autograd.grad(score.sum(), x)
    assert_same(inside, by_hand(net, x, 1))
    assert torch.equal(before, after)
    assert_same(after, by_hand(net, x, 1, guide=(False, False)))


def test_the_user_s_own_backward_pass_stays_plain():
    """If the output keeps its graph, as in training under `inject`, no prehook is left on it."""
    net, x = network(F.leaky_relu)
    expected = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    injected = medcam.inject(net, backend="gbp", label=1)
    output = injected(x)
    shown = torch.from_numpy(injected.get_attention_map())[:, 0]
    guided_gradient = collapsed(by_hand(net, x, 1))
    assert_same(shown, guided_gradient / guided_gradient.abs().amax((1, 2), keepdim=True))
    for found, right in zip(
        torch.autograd.grad(output.square().sum(), list(net.parameters())), expected, strict=True
    ):
        assert torch.equal(found, right)


def collapsed(values):
    return values.gather(1, values.abs().argmax(1, keepdim=True))[:, 0]
