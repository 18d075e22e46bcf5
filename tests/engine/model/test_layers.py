"""Layers by name: their order, aliases, groups, and what they may return."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import medcam
from medcam.engine.model.layers import find, get_layers, unwrap
from medcam.errors import InputError, InputTypeError, MedcamWarning, NoMapError, UnknownNameError
from support.nets import Classifier, UNet, image


class Childless(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


# ----------------------------------------------------------------------------------- get_layers


def test_children_come_before_their_parents():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh())), nn.Flatten()
    )
    assert get_layers(net) == ["0", "1.0", "1.1.0", "1.1", "1", "2"]
    assert get_layers(net, reverse=True) == ["2", "1", "1.1", "1.1.0", "1.0", "0"]
    assert medcam.get_layers(UNet())[:4] == ["down.0", "down.1", "down", "pool"]


def test_a_model_without_children_has_no_layers():
    assert get_layers(Childless()) == []
    assert get_layers(Childless(), reverse=True) == []


def test_a_shared_module_is_listed_once_and_a_cycle_ends():
    relu = nn.ReLU()
    net = nn.ModuleDict({"a": relu, "b": nn.Sequential(nn.Conv2d(1, 1, 1), relu), "c": relu})
    assert get_layers(net) == ["a", "b.0", "b"]
    net["b"].add_module("loop", net["b"])
    assert get_layers(net) == ["a", "b.0", "b"]


def test_every_listed_name_is_accepted():
    for net in (Classifier(), UNet(3)):
        assert set(get_layers(net)) == {name for name, _ in net.named_modules() if name}
        for name in get_layers(net):
            assert find(net, name).modules == {name: net.get_submodule(name)}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("model", [3, "net", None, torch.zeros(1)])
def test_what_is_no_model(model):
    with pytest.raises(InputTypeError, match=r"not a model: give a torch\.nn\.Module"):
        get_layers(model)


def test_wrappers_are_looked_through():
    net = Classifier()
    wrapped = nn.DataParallel(net)
    assert unwrap(wrapped) is net
    assert get_layers(wrapped) == get_layers(net)
    for name in ("features.3", "module.features.3", "_orig_mod.features.3"):
        assert list(find(wrapped, name).modules.values()) == [net.features[3]]


# ----------------------------------------------------------------------------------------- find


def test_auto_and_full():
    net = Classifier()
    for given in ("auto", None):
        assert find(net, given).automatic
        assert not find(net, given).modules
    full = find(net, "full")
    assert list(full.modules) == get_layers(net)
    assert full.optional
    assert not full.automatic


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("head", ["head"]),
        (["head", "features.0"], ["head", "features.0"]),
        (("features.0", "features.0"), ["features.0"]),
        (set(get_layers(Classifier())), sorted(get_layers(Classifier()))),
        (frozenset({"head"}), ["head"]),
        ((name for name in ("head", "features")), ["head", "features"]),
        ({"features": 1, "head": 2}.keys(), ["features", "head"]),
    ],
)
def test_groups_keep_their_order_and_sets_are_sorted(given, names):
    assert list(find(Classifier(), given).modules) == names


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("featurs.3", ["Layer 'featurs.3' does not exist", "'features.3'", "medcam.get_layers"]),
        (["head", "haed"], ["'haed'", "Did you mean 'head'"]),
        ("zzz", ["'zzz'", "Known: features.0,", "head"]),
        ("", ["Layer ''", "medcam.get_layers"]),
        (["auto"], ["'auto'"]),
    ],
)
def test_unknown_layers(given, said):
    with pytest.raises(UnknownNameError) as error:
        find(Classifier(), given)
    assert all(words in str(error.value) for words in said)


@pytest.mark.parametrize(
    ("wanted", "suggested"),
    [
        ("stage4", "'stage3' or 'stage2' or 'stage1'"),  # not stage3.4, which holds every letter
        ("stage3.5", "'stage3.4' or "),
        ("stage34", "'stage3' or 'stage3.4' or "),  # a dot that was left out
    ],
)
def test_layers_of_the_same_depth_are_suggested_first(wanted, suggested):
    def stage():
        return nn.Sequential(*[nn.Conv2d(1, 1, 1) for _ in range(5)])

    net = nn.Sequential(OrderedDict((f"stage{number}", stage()) for number in (1, 2, 3)))
    with pytest.raises(UnknownNameError) as error:
        find(net, wanted)
    assert f"Did you mean {suggested}" in str(error.value)


def test_a_large_model_does_not_list_all_its_layers():
    net = nn.Sequential(*[nn.ReLU() for _ in range(300)])
    with pytest.raises(UnknownNameError, match="300 names are known, among them 0, 1, 2"):
        find(net, "zzz")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ([], InputError, "'full' or 'auto'"),
        (3, InputTypeError, "layer=3"),
        ([3], UnknownNameError, "Layer 3"),
        (nn.Sequential(nn.ReLU()), InputTypeError, "medcam.get_layers"),
    ],
)
def test_objects_that_are_not_layers(given, error, said):
    with pytest.raises(error) as raised:
        find(Classifier(), given)
    assert said in str(raised.value)


# ------------------------------------------------------------------------------ through a call


def maps_of(net, x, layer, **kwargs):
    ask = {"method": "hirescam", "target": 1, "shape": None} | kwargs
    return medcam.explain(net, x, layer=layer, **ask).maps


def test_maps_are_keyed_by_the_names_given():
    net, x = nn.DataParallel(Classifier().eval()), image()
    names = ["module.features.3", "features.0"]
    maps = maps_of(net, x, names)
    assert list(maps) == names
    assert [found.layer for found in maps.values()] == names
    plain = maps_of(net.module, x, ["features.3", "features.0"])
    assert torch.equal(maps["module.features.3"].values, plain["features.3"].values)


class Aliased(Classifier):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.alias = self.features[3]


def test_both_names_of_a_module_are_accepted_alone_and_together():
    net, x = Aliased().eval(), image()
    alone = [maps_of(net, x, name)[name].values for name in ("features.3", "alias")]
    both = maps_of(net, x, ["alias", "features.3"])
    assert torch.equal(alone[0], alone[1])
    assert all(torch.equal(found.values, alone[0]) for found in both.values())
    assert list(both) == ["alias", "features.3"]


def test_full_leaves_out_layers_without_a_map_and_records_why():
    net, x = Classifier().eval(), image()
    net.unused = nn.Conv2d(1, 1, 1)
    net.pool = nn.AdaptiveAvgPool2d(1)
    net.forward = lambda x: net.head(net.pool(net.features(x)).flatten(1))
    found = medcam.explain(net, x, layer="full", target=1)
    assert list(found.maps) == [f"features.{i}" for i in range(5)] + ["features"]
    assert found.layer == tuple(found.maps)
    assert found.skipped.keys() == {"unused", "pool", "head"}
    assert "did not run" in found.skipped["unused"]
    assert "single voxel" in found.skipped["pool"]
    assert "[2, 3]" in found.skipped["head"]


Result = namedtuple("Result", ["features", "weights"])


class Block(nn.Module):
    """A convolution whose result is packed."""

    def __init__(self, pack):
        super().__init__()
        self.conv, self.pack = nn.Conv2d(1, 4, 3, padding=1), pack

    def forward(self, x):
        return self.pack(self.conv(x))


class Packed(nn.Module):
    def __init__(self, pack, unpack):
        super().__init__()
        self.block, self.unpack, self.head = Block(pack), unpack, nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.unpack(self.block(x)).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("pack", "unpack"),
    [
        (lambda z: (z, z.mean()), lambda out: out[0]),
        (lambda z: [None, z.argmax(1), z], lambda out: out[2]),
        (lambda z: {"weights": z.mean((2, 3)), "features": z}, lambda out: out["features"]),
        (lambda z: Result(z, None), lambda out: out.features),
        (lambda z: (z.flatten(2).mean(2), {"deep": [z]}), lambda out: out[1]["deep"][0]),
    ],
)
def test_layers_that_return_more_than_a_tensor(pack, unpack):
    net, x = Packed(pack, unpack).eval(), image()
    maps = maps_of(net, x, ["block.conv", "block"])
    assert torch.equal(maps["block"].values, maps["block.conv"].values)
    assert maps["block"].values.any()
    assert torch.equal(maps_of(net, x, "block")["block"].values, maps["block"].values)


class Twice(nn.Module):
    """One convolution, run twice; the second result may be unused."""

    def __init__(self, use):
        super().__init__()
        self.first, self.conv = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.head, self.use = nn.Linear(4, 3), use

    def forward(self, x):
        one = self.conv(self.first(x))
        two = self.conv(one.relu())
        return self.head((two if self.use == "second" else one).relu().mean((2, 3)))


@pytest.mark.parametrize("use", ["first", "second"])
def test_a_layer_that_runs_twice_keeps_the_last_run_the_scores_depend_on(use):
    net, x = Twice(use).double().eval(), image().double()
    with torch.no_grad():
        A = net.conv(net.first(x))
        A = net.conv(A.relu()) if use == "second" else A
    G = net.head.weight[1].detach()[None, :, None, None] * (A > 0) / A[0, 0].numel()
    warns = pytest.warns(MedcamWarning, match="'conv' ran several times on the same image")
    with warns if use == "second" else nullcontext():  # the first run is used by the second
        found = maps_of(net, x, "conv")["conv"].values[:, 0]
    torch.testing.assert_close(found, (G * A).sum(1), rtol=0, atol=1e-14)


def test_a_slice_overwritten_after_the_layer_changes_no_activation():

    class Slice(Classifier):
        def forward(self, x):
            f = self.features(x)
            f[:, :2] = 0
            return self.head(f.mean((2, 3)))

    net, x = Slice().double().eval(), image().double()
    A = net.features(x).detach()
    G = net.head.weight[1].detach()[None, :, None, None] / A[0, 0].numel() * torch.ones_like(A)
    G[:, :2] = 0
    found = maps_of(net, x, "features")["features"].values[:, 0]
    torch.testing.assert_close(found, (G * A).sum(1), rtol=0, atol=1e-14)


def test_all_hooks_are_removed():
    net, x = UNet().eval(), image(size=8)
    for layer in ("bottleneck", "full", "auto"):
        medcam.explain(net, x, layer=layer, target=medcam.targets.class_score(1))
    with pytest.raises(NoMapError):
        medcam.explain(net, x, layer="down", target=lambda z: z.sum((1, 2, 3)).detach())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
