"""Errors for input that cannot be explained: what was given, what is allowed, what to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam.errors import (
    InputError,
    InputTypeError,
    MedcamError,
    MedcamWarning,
    NoMapError,
    TargetError,
    UnknownNameError,
)
from medcam.methods import METHODS, Method, get
from medcam.targets import classes
from support.methods import ONCE
from support.nets import Classifier, UNet, image

OF_LAYER = [name for name in ONCE if METHODS[name].of_layer]
OF_INPUT = [name for name in ONCE if METHODS[name].of_input and name != "ggcam"]


def refused(error, said, net, x, **kwargs):
    """Assert that `explain` raises the error, with all these words in its message."""
    with pytest.raises(error) as raised:
        medcam.explain(net, x, **kwargs)
    assert type(raised.value) is error
    assert issubclass(error, MedcamError)
    missing = [words for words in said if words not in str(raised.value)]
    assert not missing, str(raised.value)


# ---------------------------------------------------------------------------- names and options


@pytest.mark.parametrize(
    ("kwargs", "error", "said"),
    [
        ({"layer": "featurs.3"}, UnknownNameError, ["'featurs.3'", "'features.3'", "get_layers"]),
        ({"layer": ["head", "nope"]}, UnknownNameError, ["'nope'", "Known", "get_layers"]),
        ({"layer": []}, InputError, ["layer=[]", "'full'", "'auto'"]),
        ({"layer": 3}, InputTypeError, ["layer=3", "'full'", "'auto'", "get_layers"]),
        ({"method": "gcm"}, UnknownNameError, ["'gcm'", "Did you mean", "'gcam'"]),
        ({"method": "gcampl"}, UnknownNameError, ["Did you mean 'gcampp'"]),
        ({"method": ["gcam", "cam"]}, UnknownNameError, ["'cam'", "gcam"]),
        ({"method": []}, InputError, ["No method", "gcam", "saliency"]),
        (
            {"method": [get("segxrescam", pool=1), get("segxrescam", pool=2)]},
            InputError,
            ["'segxrescam' with different options", "dataclasses.replace"],
        ),
        ({"method": 3}, InputTypeError, ["method=3"]),
        ({"method": None}, InputTypeError, ["method=None"]),
        ({"layers": "head"}, InputTypeError, ["has layers=.", "Did you mean layer=?"]),
        ({"colour": "red"}, InputTypeError, ["has colour=.", "explain() has method, layer, "]),
        ({"backend": "gcam"}, InputTypeError, ["explain() takes method= where inject() takes"]),
        ({"target": "bset"}, TargetError, ["'bset'", "Did you mean 'best'?"]),
        ({"target": 3}, TargetError, ["Class 3", "0 to 2"]),
        ({"target": -1}, TargetError, ["Class -1", "0 to 2"]),
        ({"target": [0, 3]}, TargetError, ["Class 3", "0 to 2"]),
        ({"target": [0]}, TargetError, ["1 classes", "batch of 2", "one class per sample"]),
        ({"target": "worst"}, TargetError, ["'worst'", "'best'", "'all'", "callable"]),
        ({"target": 1.5}, InputTypeError, ["1.5", "'best'", "callable"]),
        ({"target": {"class": 1}}, InputTypeError, ["dict", "'best'", "callable"]),
        ({"shape": "large"}, InputError, ["'large'", "'input'", "2 positive extents"]),
        ({"shape": (12,)}, InputError, ["(12,)", "2 positive extents"]),
        ({"shape": (0, 12)}, InputError, ["(0, 12)", "positive"]),
        ({"shape": (12, 12, 12)}, InputError, ["2 spatial axes"]),
        ({"output": "logits"}, InputError, ["output='logits'", "a tensor of shape [2, 3]"]),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_options(kwargs, error, said):
    refused(error, said, Classifier().eval(), image(), **{"layer": "features"} | kwargs)


@pytest.mark.parametrize("shape", [7, 7.5])
@pytest.mark.usefixtures("unchecked")
def test_a_shape_of_one_number(shape):
    refused(InputError, [str(shape), "'input'"], Classifier().eval(), image(), shape=shape)


@pytest.mark.parametrize(
    "target", [lambda: torch.tensor(1.7), lambda: classes(1.7), lambda: [True, False]]
)
@pytest.mark.usefixtures("unchecked")
def test_a_class_that_is_no_integer(target):
    with pytest.raises((InputTypeError, TargetError)):
        medcam.explain(Classifier().eval(), image(), target=target())


@pytest.mark.parametrize("model", [None, "resnet50", torch.relu, {"state": 1}])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_model(model):
    refused(InputTypeError, [type(model).__name__, "torch.nn.Module"], model, image())


def test_options_of_methods():
    with pytest.raises(InputError, match="Grad-CAM has no option pool; it has rectify"):
        get("gcam", pool=2)
    with pytest.raises(InputError, match=r"no option size; it has pool, pooling"):
        get("segxrescam", size=2)
    for options in ({"pool": 0}, {"pool": -3}):
        net, x = Classifier().eval(), image()
        refused(InputError, ["pool=", "at least 1"], net, x, method=get("segxrescam", **options))


# --------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.rand(0, 1, 12, 12), ["[0, 1, 12, 12]", "empty"]),
        (torch.rand(2, 1, 0, 12), ["[2, 1, 0, 12]", "empty"]),
        (torch.rand(12), ["[12]", "2 or 3 spatial axes"]),
        (torch.rand(2, 12), ["[2, 12]", "batch axis", "x[None]"]),
        (torch.rand(1, 12, 12), ["[1, 12, 12]", "[batch, channels, *space]", "x[None]"]),
        (torch.rand(2, 1, 4, 4, 4, 4), ["[2, 1, 4, 4, 4, 4]", "2 or 3 spatial axes"]),
        (torch.ones(2, 1, 12, 12, dtype=torch.long), ["integers", ".float()"]),
        (torch.ones(2, 1, 12, 12, dtype=torch.uint8), ["integers", ".float()"]),
        (torch.ones(2, 1, 12, 12) > 0, [".float()"]),
        (None, ["no floating-point tensor"]),
        (np.ones((2, 1, 12, 12)), ["no floating-point tensor"]),
        ("image.png", ["no floating-point tensor"]),
    ],
    ids=lambda value: str(getattr(value, "shape", "")) or None,
)
def test_inputs(x, said):
    refused(InputError, said, Classifier().eval(), x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["gcam", "gbp", "eigencam"])
def test_an_input_that_is_not_finite(value, method):
    x = image()
    x[1, 0, 3, 4] = value
    net, said = Classifier().eval(), ["input", "NaN or infinite", "replace these values"]
    refused(InputError, said, net, x, method=method, layer="features")


def test_keyword_and_second_inputs_count_too():
    class Two(Classifier):
        def forward(self, age, scan):
            return super().forward(scan) + age

    net, x, age = Two().eval(), image(), torch.rand(2, 3)
    found = medcam.explain(net, age, x, layer="features", method="hirescam", target=1)
    named = medcam.explain(net, age=age, scan=x, layer="features", method="hirescam", target=1)
    assert torch.equal(found.map.values, named.map.values)
    assert found.map.values.shape == (2, 1, 12, 12)
    with pytest.raises(InputError) as raised:
        medcam.explain(net, age, scan=x.long())
    assert "'scan' is a tensor of integers" in str(raised.value)
    assert "0: [2, 3]" in str(raised.value)


# ------------------------------------------------------------------------ maps that are invalid


class Overflowing(Classifier):
    """Sample 1 overflows after the first convolution, and only there."""

    def forward(self, x):
        huge = torch.tensor([1.0, float("inf")]).reshape(-1, 1, 1, 1)
        return self.head(self.features(x * huge).flatten(2).mean(2))


@pytest.mark.parametrize(
    "method",
    [name for name in OF_LAYER if name != "ggcam"],
)
def test_a_layer_that_overflows(method):
    said = [METHODS[method].title, "'features.0'", "NaN or infinite", "float32"]
    refused(
        NoMapError, said, Overflowing().eval(), image(), method=method, layer="features.0", target=1
    )


@pytest.mark.parametrize("method", OF_INPUT)
def test_an_input_gradient_that_overflows(method):
    said = [METHODS[method].title, "the input", "NaN or infinite"]
    refused(NoMapError, said, Overflowing().eval(), image(), method=method, target=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_voxel_that_is_not_finite(value):
    """A user's own method returns it."""

    def broken(activations):
        values = activations.mean(1)
        values[1, 2, 3] = value
        return values

    net, x = Classifier().eval(), image()
    method = Method("broken", broken, "Broken-CAM")
    refused(NoMapError, ["Broken-CAM", "'features'"], net, x, method=method, layer="features")


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.dense(x)


@pytest.mark.parametrize("method", OF_LAYER)
@pytest.mark.parametrize("layer", ["auto", "full", "dense.1"])
def test_a_model_without_spatial_layers(layer, method):
    said = {
        "auto": ["No layer", "(12, 12)", "get_layers", "'saliency'", "'gbp'"],
        "full": ["'saliency'"] if method == "ggcam" else ["layer="],
        "dense.1": ["'dense.1'", "[2, 8]", "(12, 12)"],
    }[layer]
    refused(NoMapError, said, Flat().eval(), image(), method=method, layer=layer)


@pytest.mark.parametrize("method", OF_INPUT)
def test_a_model_without_spatial_layers_still_has_maps_of_its_input(method):
    net, x = Flat().double().eval(), image().double()
    net.dense[3].weight.data.abs_()
    found = medcam.explain(net, x, method=method, target=1).map
    assert found.layer is None
    assert found.values.any()


class Odd(Classifier):
    """A network with a layer that never runs, an unused head, and parts without a gradient."""

    def __init__(self, cut=None):
        super().__init__()
        self.never, self.unused, self.cut = nn.Conv2d(1, 2, 1), nn.Conv2d(8, 2, 1), cut

    def forward(self, x):
        if self.cut == "no_grad":
            with torch.no_grad():
                f = self.features(x)
        else:
            f = self.features(x)
        if self.cut == "detach":
            f = f.detach()
        self.unused(f)
        out = self.head(f.flatten(2).mean(2))
        return out.argmax(1) if self.cut == "argmax" else out


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("never", ["'never'", "run", "Choose another layer"]),
        ("unused", ["'unused'", "depend", "Choose another layer"]),
        ("head", ["'head'", "[2, 3]", "(12, 12)", "Choose another layer"]),
        (["features", "never"], ["'never'", "did not run", "Choose another"]),
        (["features", "unused"], ["'unused'", "does not depend", "Choose another layer"]),
        (["head", "features"], ["'head'", "[2, 3]", "Choose another"]),
    ],
)
@pytest.mark.parametrize("method", ["gcam", "ggcam"])
def test_layers_of_which_no_map_can_be_made(method, layer, said):
    refused(NoMapError, said, Odd().eval(), image(), method=method, layer=layer)


@pytest.mark.parametrize("cut", ["no_grad", "detach"])
@pytest.mark.parametrize("layer", ["features.0", "features", "auto", "full"])
def test_a_layer_without_a_gradient(layer, cut):
    named = [f"'{layer}'"] if layer not in ("auto", "full") else ["any layer"]
    said = [*named, "no_grad", "detach", "layer="]
    refused(NoMapError, said, Odd(cut).eval(), image(), layer=layer)


@pytest.mark.parametrize("cut", ["no_grad", "detach"])
@pytest.mark.parametrize("method", OF_INPUT)
def test_an_input_without_a_gradient(method, cut):
    refused(NoMapError, ["no_grad", "detach"], Odd(cut).eval(), image(), method=method)


def test_layers_after_a_frozen_backbone_are_explained():
    """The graph begins at the layer, so features computed under no_grad have a map."""

    class Frozen(Classifier):
        def forward(self, x):
            with torch.no_grad():
                f = self.features[:3](x)
            return self.head(self.features[3:](f).flatten(2).mean(2))

    net, x = Frozen().eval(), image()
    ask = {"method": "hirescam", "layer": "features.3", "target": 1}
    found = medcam.explain(net, x, **ask).map.values
    net.__class__ = Classifier
    assert torch.equal(found, medcam.explain(net, x, **ask).map.values)
    assert found.any()


def test_an_output_of_integers():
    refused(InputError, ["int64", "no gradient", "output="], Odd("argmax").eval(), image())


def test_a_target_without_a_gradient():
    said = ["does not depend", "'features'", "Choose another"]
    target = lambda z: z.detach()[:, 0]  # noqa: E731 (as a user would write it)
    refused(NoMapError, said, Classifier().eval(), image(), layer="features", target=target)


# ------------------------------------------------------------------------------------- warnings


class Squashed(nn.Module):
    def __init__(self, net, squash):
        super().__init__()
        self.net, self.squash = net, squash

    def forward(self, x):
        return self.squash(self.net(x))


@pytest.mark.parametrize(
    ("net", "squash", "named"),
    [
        (Classifier, lambda z: z.softmax(1), "a softmax"),
        (Classifier, nn.Softmax(1), "a softmax"),
        (Classifier, lambda z: z.log_softmax(1), "a log-softmax"),
        (Classifier, torch.sigmoid, "a sigmoid"),
        (UNet, lambda z: z.softmax(1), "a softmax"),
        (UNet, torch.sigmoid, "a sigmoid"),
        (UNet, lambda z: {"out": z.softmax(1), "aux": z}, "a softmax"),
        (UNet, lambda z: z[:, 0].sigmoid(), "a sigmoid"),
        (UNet, lambda z: z[:, :1].sigmoid().squeeze(1), "a sigmoid"),
    ],
)
def test_a_model_that_ends_in_probabilities(net, squash, named):
    net, x = Squashed(net().eval(), squash), image(size=8)
    first = lambda z: z.reshape(len(z), -1)[:, 0]  # noqa: E731
    with pytest.warns(MedcamWarning) as caught:
        found = medcam.explain(net, x, target=first, method="saliency")
    (text,) = [str(warning.message) for warning in caught]
    assert all(words in text for words in (f"ends in {named}", "logits", "output="))
    assert found.map.values.isfinite().all()


@pytest.mark.parametrize("squash", [lambda z: z, lambda z: (z, z.softmax(1)), torch.tanh])
def test_other_ends_are_fine(squash):
    net, x = Squashed(Classifier().eval(), squash), image()
    assert medcam.explain(net, x, target=1, method="saliency").map.values.any()


def test_batch_norm_in_training_mode_mixes_samples():
    net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Pool()), image()
    ask = {"layer": "2", "method": "hirescam", "target": 0}
    with pytest.warns(MedcamWarning, match=r"training mode.*whole batch.*model\.eval\(\)"):
        medcam.explain(net, x, **ask)
    assert net.training
    assert medcam.explain(net.eval(), x, **ask).map.values.any()


class Pool(nn.Module):
    def forward(self, x):
        return x.flatten(2).mean(2)


def test_a_change_in_place_is_told_as_such():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, x):
            y = torch.sigmoid(self.conv(x).mean((2, 3)))
            y[:, 0] = 0
            return y

    with pytest.raises(NoMapError, match=r"in place .*output=\.\.\., or change") as error:
        medcam.explain(InPlace().eval(), torch.rand(1, 1, 8, 8), layer="conv", target=1)
    assert "checkpointed" not in str(error.value)


def test_what_cudnn_cannot_do_is_told_as_such(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("cudnn RNN backward can only be called in training mode")

    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    monkeypatch.setattr("torch.autograd.grad", fail)
    with pytest.raises(NoMapError, match=r"pass cudnn=False\."):
        medcam.explain(net, torch.rand(1, 1, 8, 8), layer="0")
    monkeypatch.undo()
    found = medcam.explain(net, torch.rand(1, 1, 8, 8), layer="0", cudnn=False)
    assert found.map.values.shape == (1, 1, 8, 8)
