"""Faults of other libraries in maps and models, each as a test that medcam does not have it.

The comment of each test names the libraries and what they do wrong; "original" is the M3d-CAM of
the paper's authors. Scores and files are in test_peer_faults_in_files.py.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
from collections import OrderedDict, namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import medcam
from support.nets import Classifier, UNet, conv, image

from .by_autograd import GuidedLeakyReLU, evidence, grad_cam, grad_cam_pp, x_grad_cam

CAMS = ["gcam", "gcampp", "hirescam", "layercam", "xgradcam", "segxrescam"]
OF_INPUT = ["gbp", "ggcam", "saliency", "inputxgradient"]


@pytest.fixture
def net():
    return Classifier().double().eval()


@pytest.fixture
def x():
    return image(batch=3).double()


def explained(net, x, layer="features.4", **options):
    return medcam.explain(net, x, layer=layer, **options).map.values


def close(ours, expected, tolerance=1e-12):
    assert ours.shape == expected.shape
    assert expected.any(), "the comparison would be of zeros"
    return (ours - expected).abs().max() <= tolerance * expected.abs().max()


def hooks(net):
    """Return the number of hooks of any kind in all modules."""
    kinds = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
    assert len(kinds) > 5
    return sum(len(getattr(module, kind)) for module in net.modules() for kind in kinds)


# ---------------------------------------------------------------------------- batches and targets


def different_classes():
    """Return a classifier and a batch of three samples, each predicted as another class."""
    torch.manual_seed(0)
    net, x = Classifier().double().eval(), image(batch=64, size=8).double() * 3
    with torch.no_grad():
        net.head.bias -= net(x).mean(0)
        predicted = net(x).argmax(1)
    return net, torch.stack([x[predicted == k][0] for k in (2, 0, 1)])


@pytest.mark.parametrize("method", CAMS + OF_INPUT)
def test_every_sample_gets_the_map_it_gets_alone(method):
    # original: Grad-CAM++ wrong for B > 1, Guided Grad-CAM scaled by sample 0; MONAI: Grad-CAM
    # mixes samples where the class is predicted; pytorch-grad-cam: guided maps of sample 0 only
    net, x = different_classes()
    options = {"method": method, "layer": "features.1"}
    together = explained(net, x, **options)
    alone = [explained(net, sample[None], **options) for sample in x]
    assert all(map_.any() for map_ in alone)
    assert close(together, torch.cat(alone))


@pytest.mark.parametrize("method", ["gcam", "ggcam", "hirescam"])
def test_display_values_of_a_sample_are_its_own(net, x, method):
    # original: the whole batch is normalised by sample 0
    x = x * torch.tensor([1.0, 50.0, 0.01]).reshape(3, 1, 1, 1)
    model = medcam.inject(net, backend=method, layer="features.4", label=1)
    model(x)
    together = model.get_attention_map()
    for sample, map_ in zip(x, together, strict=True):
        model(sample[None])
        assert abs(model.get_attention_map()[0] - map_).max() < 1e-10


def test_best_takes_batches():
    # original: "best" refuses a batch
    net, x = different_classes()
    found = medcam.explain(net, x, method="hirescam", layer="features.4", target="best")
    assert found.target.classes.flatten().tolist() == [2, 0, 1]
    expected = [
        explained(net, sample[None], method="hirescam", target=k)
        for sample, k in zip(x, (2, 0, 1), strict=True)
    ]
    assert close(found.map.values, torch.cat(expected))


def test_best_of_a_segmentation_is_chosen_for_each_sample():
    net, x = UNet().double().eval(), image(batch=32).double()
    with torch.no_grad():  # logits of class 1: t, of class 2: -t; small |t| is background
        net.head.weight[0], net.head.weight[2] = 0, -net.head.weight[1]
        net.head.bias.zero_()
        t = net(x)[:, 1]
        net.head.bias.copy_(torch.stack([t.std(), -t.mean(), t.mean()]))
        voxels = F.one_hot(net(x).argmax(1), 3).flatten(1, 2).sum(1)
    most = voxels[:, 1:].argmax(1) + 1
    chosen = torch.stack([(most == k).nonzero()[0, 0] for k in (2, 1)])
    assert (voxels[chosen].argmax(1) == 0).all()
    x = x[chosen]
    found = medcam.explain(net, x, method="hirescam", layer="bottleneck", target="best")
    assert found.target.classes.flatten().tolist() == [2, 1]
    each = [
        explained(net, sample[None], "bottleneck", method="hirescam", target=k)
        for sample, k in zip(x, (2, 1), strict=True)
    ]
    assert close(found.map.values, torch.cat(each))


def test_predicted_classes_do_not_mix_samples():
    # MONAI: class_idx=None with a batch sums the logits of one sample's class over all samples
    net, x = different_classes()
    found = medcam.explain(net, x, method="hirescam", layer="features.4")
    each = [explained(net, sample[None], method="hirescam") for sample in x]
    assert close(found.map.values, torch.cat(each))
    assert found.target.classes.flatten().tolist() == [2, 0, 1]


def test_fewer_targets_than_samples_are_refused(net, x):
    # pytorch-grad-cam: zips them; the rest of the batch gets maps of zeros
    for wrong in ([1], [1, 2], [0, 1, 2, 0], torch.tensor([1, 2])):
        with pytest.raises(ValueError, match="for a batch of 3: give one class per sample"):
            medcam.explain(net, x, target=wrong, layer="features.4")


@pytest.mark.parametrize("dims", [2, 3])
def test_integer_target_explains_a_segmentation(dims):
    # captum: an integer target on a segmentation raises
    net, x = UNet(dims).double().eval(), image(dims).double()
    with torch.no_grad():
        net.head.bias -= net(x).flatten(2).mean((0, 2))
        inside = net(x).argmax(1) == 2
    assert inside.flatten(1).any(1).all()

    def score(logits):
        return torch.stack([z[2][m].mean() for z, m in zip(logits, inside, strict=True)])

    activations, gradients = evidence(net, "bottleneck", x, score)
    ours = explained(net, x, "bottleneck", method="hirescam", target=2, shape=None)
    assert close(ours, (activations * gradients).sum(1, keepdim=True))


def test_default_target_of_a_segmentation_is_not_all_classes_summed():
    # nnunetv2-cam and the original: the sum of every logit
    net, x = UNet(3).double().eval(), image(3).double()
    with torch.no_grad():
        net.head.bias -= net(x).flatten(2).mean((0, 2))
        predicted = net(x).argmax(1, keepdim=True)

    def foreground(logits):
        highest = logits.gather(1, predicted)
        return torch.stack([z[m].mean() for z, m in zip(highest, predicted > 0, strict=True)])

    activations, gradients = evidence(net, "bottleneck", x, foreground)
    ours = explained(net, x, "bottleneck", method="hirescam", shape=None)
    assert close(ours, (activations * gradients).sum(1, keepdim=True))
    activations, gradients = evidence(net, "bottleneck", x, lambda z: z.flatten(1).mean(1))
    assert not close(ours, (activations * gradients).sum(1, keepdim=True), 0.1)


# -------------------------------------------------------------------------------------- Grad-CAM++


@pytest.mark.parametrize("dims", [2, 3])
def test_gradcampp_divides_by_its_denominator(dims):
    # torchcam: divides a copy; MONAI: broadcasts wrongly; pytorch-grad-cam: adds an epsilon that is
    # not negligible
    net, x = Classifier(dims).double().eval(), image(dims, batch=3).double()
    activations, gradients = evidence(net, "features.4", x, lambda z: z[:, 1])
    ours = explained(net, x, method="gcampp", target=1, shape=None)
    assert close(ours, grad_cam_pp(activations, gradients))
    undivided = grad_cam_pp(activations, gradients, divided=False)
    assert not close(ours / ours.max(), undivided / undivided.max(), 0.001)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradcampp_of_a_multi_class_segmentation(dims):
    # original: crashes
    net, x = UNet(dims, classes=4).double().eval(), image(dims).double()
    net.bottleneck[1] = nn.ReLU()  # the formula of the paper holds for non-negative activations
    target = medcam.targets.class_score(3)
    activations, gradients = evidence(net, "bottleneck", x, lambda z: z[:, 3].flatten(1).mean(1))
    ours = explained(net, x, "bottleneck", method="gcampp", target=target, shape=None)
    assert close(ours, grad_cam_pp(activations, gradients))


@pytest.mark.parametrize("bias", [95.0, 1000.0])
def test_large_logits_do_not_overflow(bias):
    # original and MONAI: weights times exp(logit), which overflows in float32 from 89 on
    net, x = Classifier().eval(), image()
    before = explained(net, x, method="gcampp", target=1)
    with torch.no_grad():
        net.head.bias += bias
        assert net(x)[:, 1].min() > 90
    after = explained(net, x, method="gcampp", target=1)
    assert before.any()
    assert torch.equal(after, before)


def test_xgradcam_in_3d():
    # pytorch-grad-cam: sums over the axes of a 2D map
    net, x = Classifier(3).double().eval(), image(3, batch=2, size=8).double()
    activations, gradients = evidence(net, "features.4", x, lambda z: z[:, 0])
    ours = explained(net, x, method="xgradcam", target=0, shape=None)
    assert close(ours, x_grad_cam(activations, gradients))


# ------------------------------------------------------------------------- guided backpropagation


class Rectified(nn.Module):
    """Three convolutions with an activation of some kind after the first two."""

    def __init__(self, first, second=None, dims=2):
        super().__init__()
        self.convs = nn.ModuleList(
            conv(dims, a, b, 3, padding=1) for a, b in ((2, 4), (4, 4), (4, 3))
        )
        self.first, self.second = first, second or first

    def forward(self, x):
        x = self.first(self.convs[0](x))
        x = self.second(self.convs[1](x))
        return self.convs[2](x).flatten(2).mean(2)


def guided_by_hand(net, x, slope, target):
    """Return the input gradient with every activation replaced by `GuidedLeakyReLU`."""
    hand = Rectified(lambda z: GuidedLeakyReLU.apply(z, slope), dims=x.ndim - 2).double()
    hand.convs.load_state_dict(net.convs.state_dict())
    return input_gradient(hand, x, target)


def input_gradient(net, x, target):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net(x)[:, target].sum(), x)[0]


KINDS = {
    "nn.ReLU": (nn.ReLU(), 0.0),
    "nn.ReLU in place": (nn.ReLU(inplace=True), 0.0),
    "F.relu": (F.relu, 0.0),
    "torch.relu": (torch.relu, 0.0),
    "x.relu_()": (lambda z: z.relu_(), 0.0),
    "clamp": (lambda z: z.clamp(min=0), 0.0),
    "nn.LeakyReLU": (nn.LeakyReLU(0.1), 0.1),
    "nn.LeakyReLU in place": (nn.LeakyReLU(0.1, inplace=True), 0.1),
    "F.leaky_relu": (lambda z: F.leaky_relu(z, 0.1), 0.1),
    "nn.PReLU": (nn.PReLU(init=0.25), 0.25),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", [2, 3])
def test_every_kind_of_rectifier_is_guided(kind, dims):
    # original: nn.ReLU modules only; MONAI: modules with "relu" in their name, not PReLU; captum:
    # no functional ones. A rectifier that is missed gives the plain gradient.
    activation, slope = KINDS[kind]
    net = Rectified(activation, dims=dims).double().eval()
    x = image(dims, batch=2, size=6, channels=2).double() - 0.5
    expected = guided_by_hand(net, x, slope, 1)
    assert not close(input_gradient(net, x, 1), expected, 0.1)
    model = medcam.inject(net, backend="gbp", label=1)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            model(x)
        assert close(model.get_explanation().map.channels[:, 0], expected)
    assert close(medcam.explain(net, x, method="gbp", target=1).map.channels[:, 0], expected)


class PreActivation(nn.Module):
    """A residual block whose ReLU comes first: the skip goes around it."""

    def __init__(self, relu):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 3, padding=1)
        self.relu = relu

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv(self.relu(x))
        return self.head(x).flatten(2).mean(2)


def test_skip_around_a_rectifier_is_not_guided():
    # captum: clamps the sum of both gradients, that of the skip included
    net = PreActivation(nn.ReLU()).double().eval()
    x = image().double() - 0.5
    hand = PreActivation(lambda z: GuidedLeakyReLU.apply(z, 0.0)).double()
    hand.load_state_dict(net.state_dict())
    expected = input_gradient(hand, x, 0)
    activations, gradients = evidence(hand, "stem", x, lambda z: z[:, 0])
    assert (gradients[activations > 0] < 0).any(), "the skip carries no negative gradient"
    assert close(medcam.explain(net, x, method="gbp", target=0).map.channels[:, 0], expected)


def test_guided_grad_cam_interpolates_linearly(net, x):
    # captum: "nearest" by default
    guided = medcam.explain(net, x, method="gbp", target=1).map.channels[:, 0]
    cam = explained(net, x, layer="features.3", method="gcam", target=1, shape=None)
    linear = guided * F.interpolate(cam, scale_factor=2, mode="bilinear")
    nearest = guided * F.interpolate(cam, scale_factor=2)
    ours = medcam.explain(net, x, method="ggcam", layer="features.3", target=1).map.channels[:, 0]
    assert close(ours, linear)
    assert not close(ours, nearest, 0.01)


def test_users_rectifiers_stay_where_they_are(net, x):
    # pytorch-grad-cam: replaces the ReLU modules, and does not restore them after an exception
    before = dict(net.named_modules())
    medcam.explain(net, x, method=["gbp", "ggcam"], layer="features.4", target=1)

    def fails(output):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        medcam.explain(net, x, method="gbp", target=fails)
    after = dict(net.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is module for name, module in before.items())
    assert type(net.features[1]) is nn.ReLU


# --------------------------------------------------------------------------------- the user's model


@pytest.mark.parametrize("requires_grad", [False, True])
def test_gradients_of_parameters_and_input_are_untouched(net, x, requires_grad):
    # original, pytorch-grad-cam: zero_grad() and backward(); original: input.requires_grad = True
    x.requires_grad_(requires_grad)
    kept = {name: torch.rand_like(parameter) for name, parameter in net.named_parameters()}
    for name, parameter in net.named_parameters():
        parameter.grad = kept[name].clone()
    grads = {name: parameter.grad for name, parameter in net.named_parameters()}
    medcam.explain(net, x, method=[*CAMS, *OF_INPUT], layer="features.4")
    medcam.inject(net, backend="ggcam", layer="features.4")(x)
    for name, parameter in net.named_parameters():
        assert parameter.requires_grad
        assert parameter.grad is grads[name]
        assert torch.equal(parameter.grad, kept[name])
    assert x.requires_grad is requires_grad
    assert x.grad is None


@pytest.mark.parametrize("method", ["saliency", "gbp"])
def test_a_second_call_does_not_add_to_the_first(net, x, method):
    # MONAI: VanillaGrad reads input.grad, which accumulates: the second call returns g0 + g1
    x.requires_grad_()
    first = medcam.explain(net, x, method=method, target=0).map.channels
    second = medcam.explain(net, x, method=method, target=0).map.channels
    assert first.any()
    assert torch.equal(first, second)


def test_training_flags_and_frozen_batch_norm_stay():
    # original: puts the children in eval mode; MONAI: root.train() unfreezes a frozen batch norm
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 3)
    )
    net.train()
    net[1].eval()
    flags = [module.training for module in net.modules()]
    running = net[1].running_mean.clone()
    model = medcam.inject(net, layer="2")
    assert [module.training for module in net.modules()] == flags
    model(image(size=8))
    medcam.explain(net, image(size=8), layer="2", target=medcam.targets.class_score(0))
    assert [module.training for module in net.modules()] == flags
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(net[1].running_mean, running)


def test_a_training_call_moves_the_running_statistics_once():
    # original: twice at the first call; libraries that run the model themselves: once more
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 10))
    plain, x = copy.deepcopy(net), image()
    expected = plain(x)
    with pytest.warns(UserWarning, match="its batch normalisation mixes the samples"):
        output = medcam.inject(net, layer="2", label=1)(x)
    assert torch.equal(output, expected)
    for name, value in plain.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


@pytest.mark.parametrize("layer", ["auto", "full", "features.4"])
@pytest.mark.parametrize("method", ["gcam", "ggcam"])
def test_first_call_runs_the_model_once(net, x, layer, method):
    # original: twice
    runs = []
    net.features[0].register_forward_pre_hook(lambda module, inputs: runs.append(module))
    model = medcam.inject(net, backend=method, layer=layer)
    for count in (1, 2):
        with torch.no_grad():
            model(x)
        assert len(runs) == count


class Reversed(nn.Module):
    """Layers of equal shape, registered in a different order from that of their calls."""

    def __init__(self):
        super().__init__()
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.first = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x):
        return self.third(self.second(self.first(x).tanh()).tanh()).tanh().mean((2, 3))


@pytest.mark.parametrize("layers", [["first", "third", "second"], ["third", "first"], "full"])
def test_gradients_belong_to_their_layers(x, layers):
    # several: matched to the layers by their position in a list
    net = Reversed().double().eval()
    found = medcam.explain(net, x, method="hirescam", layer=layers, target=1, shape=None).maps
    assert set(found) == ({"first", "second", "third"} if layers == "full" else set(layers))
    for layer, item in found.items():
        activations, gradients = evidence(net, layer, x, lambda z: z[:, 1])
        assert close(item.values, (activations * gradients).sum(1, keepdim=True))


def test_relu_inplace_after_layer_is_harmless():
    # several: the stored activation is the tensor that the ReLU then changes
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 8)
    ).double()  # fmt: skip
    x = image().double() - 0.5
    activations, gradients = evidence(net, "2", x, lambda z: z.flatten(1)[:, 1])
    assert (activations < 0).any()
    for module in (net[1], net[3]):
        module.inplace = True
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            model = medcam.inject(
                net, layer="2", label=1, data_shape=None, normalize=False, backend="hirescam"
            )
            model(x)
        ours = torch.from_numpy(model.get_attention_map())
        assert close(ours, (activations * gradients).sum(1, keepdim=True))
        many = medcam.explain(net, x, layer="full", target=1, method="hirescam", shape=None).maps
        assert close(many["2"].values, (activations * gradients).sum(1, keepdim=True))


class Twice(nn.Module):
    """One convolution that runs twice."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.shared(self.shared(x).tanh()).tanh().mean((2, 3))


@pytest.mark.filterwarnings("ignore:Layer 'shared' ran several times on the same image")
def test_module_called_twice_pairs_its_own_gradient():
    # several: the last activation with the first gradient
    net, x = Twice().double().eval(), image(channels=3).double()
    activations, gradients = evidence(net, "shared", x, lambda z: z[:, 1])  # of the last call
    ours = explained(net, x, "shared", method="hirescam", target=1, shape=None)
    assert close(ours, (activations * gradients).sum(1, keepdim=True))


class Returns(nn.Module):
    """A classifier that returns its logits inside a container."""

    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = Classifier().double(), wrap

    def forward(self, x):
        return self.wrap(self.net(x))


@dataclasses.dataclass
class Outcome:
    features: torch.Tensor
    logits: torch.Tensor
    note: str = "kept"


Pair = namedtuple("Pair", ["logits", "loss"])

CONTAINERS = {
    "tuple": lambda z: (z, torch.zeros(())),
    "list": lambda z: [z],
    "dict": lambda z: {"out": z, "aux": z.detach() * 0},
    "ordered dict": lambda z: OrderedDict(logits=z),
    "named tuple": lambda z: Pair(z, None),
    "dataclass": lambda z: Outcome(z.detach() * 2, z),
    "nested": lambda z: {"heads": [(z,)]},
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_outputs_in_containers_are_explained_and_returned(kind, x):
    # original: lists, dicts and tuples raise
    net = Returns(CONTAINERS[kind]).eval()
    with torch.no_grad():
        plain, expected = net(x), explained(net.net, x, method="hirescam", target=1)
        found = medcam.explain(net, x, method="hirescam", layer="net.features.4", target=1)
        called = medcam.inject(net, layer="net.features.4", label=1)(x)
    assert close(found.map.values, expected)
    for output in (found.output, called):
        assert type(output) is type(plain)
        assert str(output) == str(plain)


def test_frozen_models_are_explained(net, x):
    # original: "does not require grad"
    expected = {m: explained(net, x, method=m, target=1) for m in CAMS + OF_INPUT}
    net.requires_grad_(False)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for method, before in expected.items():
                assert close(explained(net, x, method=method, target=1), before)
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_inference_mode_is_left_for_the_call(net, x):
    # original: raises; enable_grad() does not override inference mode
    expected = {m: explained(net, x, method=m, target=1) for m in CAMS + OF_INPUT}
    model = medcam.inject(net, layer="features.4", label=1, normalize=False)
    with torch.inference_mode():
        made_inside = x + 0
        assert made_inside.is_inference()
        for method, before in expected.items():
            assert close(explained(net, made_inside, method=method, target=1), before)
        output = model(made_inside)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(output, net(x))
    assert close(torch.from_numpy(model.get_attention_map()), expected["gcam"])


def test_parameters_made_under_inference_mode(net, x):
    # nnU-Net's predictor makes them; they cannot be saved for a backward pass
    expected = explained(net, x, target=1)
    with torch.inference_mode():
        twin = Classifier().double().eval()
        twin.load_state_dict(net.state_dict())
    kept = list(twin.parameters())
    assert all(parameter.is_inference() for parameter in kept)
    assert close(explained(twin, x, target=1), expected)
    assert all(a is b for a, b in zip(twin.parameters(), kept, strict=True))


@pytest.mark.parametrize("method", ["gcam", "gcampp", "gbp", "hirescam"])
def test_bfloat16_autocast(method):
    # original: numpy knows no bfloat16
    net, x = Classifier().eval(), image()
    expected = explained(net, x, method=method, target=1)
    model = medcam.inject(net, layer="features.4", backend=method, label=1, normalize=False)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            plain = net(x)
        assert plain.dtype == torch.bfloat16
        assert torch.equal(model(x), plain)
    found = torch.from_numpy(model.get_attention_map())
    assert found.dtype == torch.float32
    assert close(found, expected, 0.05)


def test_models_of_several_inputs_get_their_own_arguments():
    # original: the second input is taken for a label
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)
            self.head = nn.Conv2d(4, 2, 3)

        def forward(self, t1, t2):
            return self.head((self.left(t1) * self.right(t2)).tanh()).mean((2, 3))

    net, (t1, t2) = TwoInputs().double().eval(), image().double()[:, None]
    model = medcam.inject(net, layer="left", label=1, backend="hirescam", normalize=False)
    assert torch.equal(model(t1, t2), net(t1, t2))
    found = torch.from_numpy(model.get_attention_map())
    expected = medcam.explain(net, t1, t2, layer="left", target=1, method="hirescam").map.values
    assert close(found, expected)
    swapped = medcam.explain(net, t2, t1, layer="left", target=1, method="hirescam").map.values
    assert not close(found, swapped, 0.01)


def test_a_case_of_several_channels_has_a_map_of_each():
    # nnunetv2-cam: finds no case of several channels
    net, x = Classifier(channels=4).double().eval(), image(channels=4).double()
    found = medcam.explain(net, x, method="saliency", target=1).map
    expected = input_gradient(net, x, 1)
    assert close(found.channels[:, 0], expected)
    assert all(expected[:, channel].any() for channel in range(4))


# ------------------------------------------------------------------------- hooks, memory, errors


def test_hooks_are_gone_after_the_call_and_after_exceptions(net, x):
    # MONAI: never removed
    user_hook = net.features[1].register_forward_hook(lambda module, inputs, output: None)
    before = hooks(net)
    assert before == 1
    methods = [*CAMS, *OF_INPUT]
    for layer in ("auto", "full", "features.4"):
        medcam.explain(net, x, method=methods, layer=layer)
        medcam.inject(net, backend="ggcam", layer=layer)(x)
        assert hooks(net) == before
        with pytest.raises(RuntimeError, match="is invalid for input of size"):
            medcam.explain(net, x, layer=layer, output=lambda z: z.reshape(7))
        with pytest.raises(ValueError, match="Class 7 does not exist"):
            medcam.explain(net, x, layer=layer, target=7)
    net.head = nn.Linear(3, 2)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        medcam.explain(net, x, layer="features.4")
    assert hooks(net) == before
    assert all(parameter.requires_grad for parameter in net.parameters())
    user_hook.remove()
    assert hooks(net) == 0


def test_nothing_grows_with_the_calls(net, x):
    # MONAI: hooks; pytorch-grad-cam, torchcam: activations of the last call; users: memory growth
    model = medcam.inject(net, backend="ggcam")

    def alive():
        gc.collect()
        kinds = map(type, gc.get_objects())  # isinstance() would load lazy objects
        return sum(issubclass(kind, torch.Tensor) for kind in kinds), hooks(net)

    def call():
        with torch.no_grad():
            model(x)
        medcam.explain(net, x, method=[*CAMS, *OF_INPUT], layer="full")

    call()
    before = alive()
    for _ in range(3):
        call()
    assert alive() == before


def test_an_index_error_of_the_model_comes_through(net, x):
    # pytorch-grad-cam: __exit__ swallows it
    class Broken(Classifier):
        def forward(self, x):
            return [super().forward(x)][1]

    broken = Broken().double()
    for call in (lambda: medcam.explain(broken, x), lambda: medcam.inject(broken)(x)):
        with pytest.raises(IndexError, match="list index out of range"):
            call()


# --------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("dims", [2, 3])
def test_auto_on_a_segmentation_is_not_the_logits(dims):
    # original: the last layer, whose Grad-CAM map equals the logits
    net, x = UNet(dims).double().eval(), image(dims).double()
    options = {"method": "hirescam", "target": medcam.targets.class_score(1), "shape": None}
    found = medcam.explain(net, x, **options)
    assert found.layer == "bottleneck"
    assert tuple(found.map.values.shape[2:]) == (6,) * dims
    assert close(found.map.values, explained(net, x, "bottleneck", **options))


def test_auto_never_picks_the_root(x):
    # torchcam: picks the model itself
    convolutions = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3)).double()
    found = medcam.explain(convolutions, x, target=medcam.targets.class_score(1))
    assert found.layer in medcam.get_layers(convolutions)
    with pytest.raises(RuntimeError, match="No layer was found automatically"):
        medcam.explain(nn.Conv2d(1, 2, 3).double(), x)


def test_a_childless_model_has_no_layers():
    # original: loops forever
    assert medcam.get_layers(nn.Conv2d(1, 2, 3)) == []
    assert medcam.inject(nn.ReLU()).get_layers() == []


def test_an_unknown_layer_names_the_nearest_before_any_run(net):
    # original: a bare KeyError, after the run
    for call in (medcam.inject, lambda net, layer: medcam.explain(net, None, layer=layer)):
        with pytest.raises(ValueError, match=r"Layer 'feature\.4' does not exist.*'features\.4'"):
            call(net, layer="feature.4")


# ----------------------------------------------------------------------------------------- maps


def test_constant_sample_is_zero_not_nan():
    # original: one constant sample makes 0/0
    net = Classifier().double().eval()
    with torch.no_grad():
        net.features[0].bias.zero_()
        net.features[3].bias.zero_()
    x = image(batch=3).double()
    x[1] = 0
    every = medcam.targets.classes(0, 1, 2)
    for method in CAMS:
        model = medcam.inject(net, backend=method, layer="features.4", target=every)
        model(x)
        found = torch.from_numpy(model.get_attention_map())
        assert found.isfinite().all()
        assert not found[1].any()
        assert found[[0, 2]].flatten(1).abs().amax(1).tolist() == [1.0, 1.0]


def test_hot_is_hot():
    # MONAI: the default display is inverted, 1 - minmax
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.zero_()
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 6, 2] = 1
    model = medcam.inject(net, layer="1", label=1)  # class 1 of a single logit: its positive side
    model(x)
    found = model.get_attention_map()[0, 0]
    assert found[6, 2] == 1
    assert found.sum() == 1


@pytest.mark.parametrize("method", ["gcam", "gcampp", "layercam", "xgradcam"])
def test_a_3d_map_never_overshoots(method):
    # pytorch-grad-cam: cubic interpolation gives values below zero
    net, x = Classifier(3).double().eval(), image(3, size=16).double()
    raw = explained(net, x, "features.3", method=method, target=[0, 1], shape=None)
    full = explained(net, x, "features.3", method=method, target=[0, 1])
    assert raw.any()
    assert full.min() >= 0
    assert (full.flatten(1).amax(1) <= raw.flatten(1).amax(1)).all()


def test_raw_maps_keep_their_scale_so_that_windows_can_be_joined():
    # nnunetv2-cam: min-max scaling in each window before stitching
    net, x = UNet(3).double().eval(), image(3).double()
    target = medcam.targets.class_score(1)
    once = explained(net, x, "bottleneck", method="hirescam", target=target)
    with torch.no_grad():
        net.head.weight *= 3
    assert close(explained(net, x, "bottleneck", method="hirescam", target=target), 3 * once)
    activations, gradients = evidence(net, "bottleneck", x, lambda z: z[:, 1].flatten(1).mean(1))
    raw = explained(net, x, "bottleneck", method="gcam", target=target, shape=None)
    assert close(raw, grad_cam(activations, gradients))


def test_data_shape_sets_the_shape_of_the_maps(net, x):
    # original: no effect
    def shaped(data_shape):
        model = medcam.inject(
            net, layer="features.4", data_shape=data_shape, normalize=False, backend="hirescam"
        )
        model(x)
        return torch.from_numpy(model.get_attention_map())

    unresized = shaped(None)
    assert tuple(unresized.shape[2:]) == (6, 6)
    linear = {"mode": "bilinear", "align_corners": False}
    assert close(shaped("default"), F.interpolate(unresized, (12, 12), **linear))
    assert close(shaped((24, 18)), F.interpolate(unresized, (24, 18), **linear))
