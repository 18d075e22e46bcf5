"""The contract of every method, as a pure function and inside `medcam.explain`."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

import medcam
from medcam.methods import METHODS
from medcam.targets import class_score, classes
from support.methods import AGAIN, ONCE
from support.nets import Classifier, UNet, conv, image

pytestmark = pytest.mark.usefixtures("unchecked_layer")

OF_LAYER = [name for name in ONCE if METHODS[name].of_layer]
CAM_FAMILY = [n for n, m in METHODS.items() if m.evidence == {"activations", "gradients"}]
AT_LAYER = [*CAM_FAMILY, "eigencam"]  # one map at the layer's size, a function of A (and G) alone
SPACES = [(6,), (4, 6), (4, 2, 6)]


def evidence(space, batch=3, dtype=torch.float64):
    whole = [2 * extent for extent in space]
    given = {n: torch.randn(batch, 5, *space) for n in ("activations", "gradients")}
    for name in ("inputs", "input_gradients", "guided_gradients"):
        given[name] = torch.randn(batch, 2, *whole)
    return {name: tensor.to(dtype) for name, tensor in given.items()}


def at_layer(space):
    return {name: evidence(space)[name] for name in ("activations", "gradients")}


def apply(method, given):
    return METHODS[method].function(**{name: given[name] for name in METHODS[method].evidence})


def changed(given, change):
    return {name: change(tensor) for name, tensor in given.items()}


def assert_same(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# --------------------------------------------------------------------------- as a pure function


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", ONCE)
def test_a_sample_in_a_batch_is_the_sample_alone(method, space):
    given = evidence(space)
    given["activations"][1] *= 1e6  # a sample with far larger values
    given["gradients"][2] = 0
    together = apply(method, given)
    for i in range(3):
        alone = apply(method, changed(given, lambda tensor, i=i: tensor[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", AT_LAYER)
def test_the_order_of_channels_does_not_matter(method, space):
    given, order = at_layer(space), torch.randperm(5)
    assert_same(apply(method, changed(given, lambda t: t[:, order])), apply(method, given))


@pytest.mark.parametrize("axes", [[-1], [-2], [-3], [-3, -1]])
@pytest.mark.parametrize("method", AT_LAYER)
def test_maps_flip_with_the_layer(method, axes):
    given = evidence((4, 2, 6))
    assert_same(
        apply(method, changed(given, lambda t: t.flip(axes))), apply(method, given).flip(axes)
    )


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("method", AT_LAYER)
def test_maps_turn_with_the_layer(method, axes):
    given = evidence((4, 2, 6))
    turned = apply(method, changed(given, lambda t: t.permute(0, 1, *(a + 2 for a in axes))))
    assert_same(turned, apply(method, given).permute(0, *(a + 1 for a in axes)))


@pytest.mark.parametrize("method", [name for name in AT_LAYER if name != "segxrescam"])
def test_voxels_in_any_order(method):
    """Only Seg-XRes-CAM depends on neighbouring voxels, which it pools over."""
    given, order = at_layer((3, 4)), torch.randperm(12)

    def shuffle(tensor):
        return tensor.flatten(-2)[..., order].unflatten(-1, (3, 4))

    assert_same(apply(method, changed(given, shuffle)), shuffle(apply(method, given)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ONCE)
def test_dtype_and_precision_are_kept(method, dtype):
    given = evidence((4, 6))
    found = apply(method, changed(given, lambda t: t.to(dtype)))
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0
    torch.testing.assert_close(found.double(), apply(method, given), rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", ONCE)
def test_the_device_is_kept(method):
    """A tensor made on the CPU inside a method would meet one on the meta device."""
    found = apply(method, changed(evidence((4, 6)), lambda t: t.to("meta")))
    assert found.device.type == "meta"
    assert found.shape == apply(method, evidence((4, 6))).shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ONCE)
def test_constants_give_finite_constant_maps(method, dtype):
    given = evidence((4, 2, 6), dtype=dtype)
    for a, g in product((0, 1, -1, 1e4), (0, 1, -1, 1e-6)):
        found = apply(
            method, {n: torch.full_like(t, g if "gradients" in n else a) for n, t in given.items()}
        )
        assert found.isfinite().all()
        assert (found - found.flatten()[0]).abs().max() <= 1e-5 * max(1, abs(a * g))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", [name for name in ONCE if name != "eigencam"])
def test_a_zero_gradient_gives_a_zero_map(method, space):
    given = evidence(space)
    silent = {n: torch.zeros_like(t) if "gradients" in n else t for n, t in given.items()}
    assert not apply(method, silent).any()
    assert apply(method, given).any()


# ----------------------------------------------------------------------------- inside `explain`


def lively(net):
    """Networks with positive head weights, so no Grad-CAM map is zero, that predict class 1."""
    net.head.weight.data.abs_()
    net.head.bias.data = torch.tensor([0.0, 0.4, 0.2])
    return net.eval()


NETS = {
    "2D classification": (lambda: lively(Classifier(2, channels=2)), 2, "features.4"),
    "3D classification": (lambda: lively(Classifier(3, channels=2)), 3, "features.4"),
    "2D segmentation": (lambda: lively(UNet(2, channels=2)), 2, "bottleneck"),
    "3D segmentation": (lambda: lively(UNet(3, channels=2)), 3, "bottleneck"),
}


FAST = {"rise": medcam.methods.rise(masks=16), "occlusion": medcam.methods.occlusion(size=4)}
"""Fewer runs of the model than by default."""


@pytest.fixture(params=NETS)
def case(request):
    make, dims, layer = NETS[request.param]
    torch.manual_seed(0)
    return make().double(), image(dims, batch=3, size=8, channels=2).double(), layer


@pytest.mark.parametrize("method", METHODS)
def test_explaining_a_batch_is_explaining_each_sample(case, method):
    net, x, layer = case
    ask = {"method": FAST.get(method, method), "layer": layer, "target": classes(0, 1)}
    net.head.bias.data = torch.tensor([0.2, 0.2, 0.2]).double()
    if isinstance(net, UNet):  # an empty class would warn
        ask["target"] = lambda logits: logits[:, :2].flatten(2).mean(2)
    together = medcam.explain(net, x, **ask).map
    assert together.values.shape == (3, 2, *x.shape[2:])
    assert together.values.any()
    for i in range(3):
        alone = medcam.explain(net, x[i : i + 1], **ask).map
        torch.testing.assert_close(together.values[i : i + 1], alone.values, rtol=1e-9, atol=1e-12)


class Normed(nn.Module):
    """A network with every kind of normalisation used in medical networks."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            conv(2, 1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(),
            conv(2, 4, 8, 3, padding=1),
            nn.InstanceNorm2d(8),
            nn.GroupNorm(2, 8),
            nn.Dropout(0.5),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:The Integrated Gradients map of sample")
@pytest.mark.parametrize("method", METHODS)
def test_another_neighbour_in_the_batch_changes_nothing(method):
    net, x = Normed().double().eval(), image(batch=2).double()
    net.head.weight.data.abs_()
    other = torch.stack([x[0], 100 * torch.rand_like(x[1])])
    ask = {"method": method, "layer": "features", "target": 1}
    one, two = (medcam.explain(net, given, **ask).map.values for given in (x, other))
    assert_same(one[0], two[0])
    assert (one[1] - two[1]).norm() > one[1].norm() / 10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_have_the_dtype_and_device_of_the_model(method, dtype):
    net, x = lively(Classifier()).to(dtype), image().to(dtype)
    found = medcam.explain(net, x, method=method, layer="features", target=1).map
    assert (found.values.dtype, found.values.device) == (dtype, x.device)
    assert not found.values.requires_grad


@pytest.mark.parametrize("method", [name for name in METHODS if name != "occlusion"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_maps(method, dtype):
    """Occlusion is a difference of two scores, which half precision rounds away here."""
    net, x = lively(Classifier()).to(dtype), image().to(dtype)
    ask = {"method": method, "layer": "features", "target": 1}
    found = medcam.explain(net, x, **ask)
    assert found.output.dtype == dtype
    assert found.map.values.dtype == torch.float32
    wide = medcam.explain(net.float(), x.float(), **ask).map.values
    error = (found.map.values - wide).norm() / wide.norm()
    assert error < (0.1 if dtype == torch.bfloat16 else 0.02)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "gcampp"])
def test_gradients_too_small_for_float16_are_not_lost(method):
    """As with a mean over a million voxels; only Grad-CAM++ is not proportional to them."""
    net, x = lively(Classifier()).half(), image().half()
    ask = {"method": method, "layer": "features"}
    large = medcam.explain(net, x, target=lambda z: z[:, 1], **ask).map.normalized()
    small = medcam.explain(net, x, target=lambda z: z[:, 1].float() * 1e-7, **ask).map.normalized()
    assert (large - small).norm() < 0.02 * large.norm()


@pytest.mark.filterwarnings("ignore:The image is zero wherever:medcam.errors.MedcamWarning")
@pytest.mark.filterwarnings("ignore:No changed image:medcam.errors.MedcamWarning")
@pytest.mark.filterwarnings("ignore:Everything at layer:medcam.errors.MedcamWarning")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_image_gives_finite_maps(case, method, value):
    net, x, layer = case
    method = FAST.get(method, method)
    ask = {"method": method, "layer": layer, "target": lambda z: z[:, 1:2].flatten(1).mean(1)}
    found = medcam.explain(net, torch.full_like(x, value), **ask).map
    assert found.values.isfinite().all()
    assert found.normalized().isfinite().all()


# --------------------------------------------------------- several at once, from one forward pass


def counted(net, x, watched, target, **ask):
    """Run `explain`; count the forward passes, runs of a layer, and backward passes."""
    calls = {"forward": 0, "layer": 0, "backward": 0}

    def count(kind):
        def counting(*_):
            calls[kind] += 1

        return counting

    def observed(logits):
        if logits.requires_grad:
            logits.register_hook(count("backward"))
        return target(logits)

    modules = {"forward": net, "layer": net.get_submodule(watched)}
    handles = [m.register_forward_pre_hook(count(kind)) for kind, m in modules.items()]
    found = medcam.explain(net, x, target=observed, **ask)
    for handle in handles:
        handle.remove()
    return found, calls


def mean_of(*labels):
    """Return the classes' mean logits over the whole image."""
    return lambda logits: (
        logits.flatten(2).mean(2)[:, labels] if logits.ndim > 2 else logits[:, labels]
    )


def test_several_methods_equal_separate_calls(case):
    net, x, layer = case
    ask = {"target": mean_of(1)}
    found, calls = counted(net, x, layer, method=ONCE, layer=layer, **ask)
    assert calls == {"forward": 1, "layer": 1, "backward": 2}  # one plain, one guided
    assert [method for method, _ in found.maps] == ONCE
    for (method, place), together in found.maps.items():
        assert place == (layer if method in OF_LAYER else None)
        alone = medcam.explain(net, x, method=method, layer=layer, **ask).map
        assert torch.equal(together.values, alone.values)
        if alone.channels is not None:
            assert torch.equal(together.channels, alone.channels)


@pytest.mark.parametrize("method", OF_LAYER)
def test_several_layers_equal_separate_calls(case, method):
    net, x, layer = case
    layers = [layer, "features.0" if isinstance(net, Classifier) else "down"]
    ask = {"method": method, "target": mean_of(1)}
    found, calls = counted(net, x, layer, layer=layers, **ask)
    guided = method == "ggcam"
    assert calls == {"forward": 1, "layer": 1, "backward": 1 + guided - (method == "eigencam")}
    assert list(found.maps) == layers
    for place in layers:
        alone = medcam.explain(net, x, layer=place, **ask).map
        assert torch.equal(found.maps[place].values, alone.values)
    first, second = (found.maps[place].values for place in layers)
    assert (first - second).abs().max() > 0


@pytest.mark.parametrize("method", ONCE)
def test_several_classes_equal_separate_calls(case, method):
    net, x, layer = case
    ask = {"method": method, "layer": layer}
    found, calls = counted(net, x, layer, target=mean_of(0, 2, 1), **ask)
    backward = {"eigencam": 0, "ggcam": 6}.get(method, 3)
    assert calls == {"forward": 1, "layer": 1, "backward": backward}
    for column, label in enumerate((0, 2, 1)):
        alone = medcam.explain(net, x, target=mean_of(label), **ask).map.values
        shared = found.map.values[:, column]
        assert torch.equal(shared, alone[:, 0])


@pytest.mark.filterwarnings("ignore:The Integrated Gradients map of sample")
@pytest.mark.parametrize("method", AGAIN)
def test_methods_that_run_the_model_again_several_at_once(case, method):
    """Several classes share the forward passes; beside another method nothing changes."""
    net, x, layer = case
    key = method, layer if METHODS[method].of_layer else None
    ask, method = {"layer": layer}, FAST.get(method, method)
    found, calls = counted(net, x, layer, mean_of(0, 2, 1), method=method, **ask)
    for column, label in enumerate((0, 2, 1)):
        alone, calls_alone = counted(net, x, layer, mean_of(label), method=method, **ask)
        assert calls["forward"] == calls_alone["forward"] > 3
        shared = found.map.values[:, column]
        torch.testing.assert_close(shared, alone.map.values[:, 0], rtol=1e-9, atol=1e-12)
    beside = medcam.explain(net, x, target=mean_of(1), method=["gcam", method, "gbp"], **ask)
    assert torch.equal(beside.maps[key].values, alone.map.values)
    plain = medcam.explain(net, x, target=mean_of(1), method="gcam", **ask).map.values
    assert torch.equal(beside.maps["gcam", layer].values, plain)


def test_a_method_without_a_class_still_has_one_map_for_each_target():
    net, x = lively(Classifier()), image()
    found = medcam.explain(net, x, method="eigencam", layer="features", target="all")
    assert found.map.values.shape[:2] == found.target.classes.shape


def test_the_layer_of_the_automatic_choice_costs_no_second_forward(case):
    net, x, layer = case
    found, calls = counted(net, x, layer, layer="auto", target=mean_of(1))
    assert calls == {"forward": 1, "layer": 1, "backward": 1}
    named = medcam.explain(net, x, layer=found.layer, target=mean_of(1))
    assert torch.equal(found.map.values, named.map.values)


def test_class_score_equals_the_mean_over_the_image(case):
    net, x, layer = case
    if isinstance(net, UNet):
        found = medcam.explain(net, x, layer=layer, target=class_score(1)).map.values
        assert torch.equal(found, medcam.explain(net, x, layer=layer, target=mean_of(1)).map.values)
