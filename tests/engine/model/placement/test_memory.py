"""The places are traced in the first call and remembered: operations are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam.engine.model.placement import subclasses
from medcam.engine.model.placement.tracer import Tracer

TARGET = medcam.targets.class_score(1)


def net() -> nn.Module:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
    unused = nn.ModuleList([nn.Conv2d(1, 1, 1)])
    model = nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    model.register_module("unused", unused)
    model.forward = lambda x: model[3](model[2](model[1](model[0](x))))
    return model


@pytest.fixture
def seen(monkeypatch):
    """The number of operations that tracers have seen."""
    counts = [0]
    dispatch = Tracer.__torch_dispatch__

    def counting(self, *args, **kwargs):
        counts[0] += 1
        return dispatch(self, *args, **kwargs)

    monkeypatch.setattr(Tracer, "__torch_dispatch__", counting)
    return counts


@pytest.mark.parametrize("layer", ["0.1", ["0.1", "0.3"], "full", "auto"])
def test_only_the_first_call_is_traced(seen, layer):
    model, x = net(), torch.rand(2, 1, 16, 16)
    first = medcam.explain(model, x, layer=layer, target=1)
    traced = seen[0]
    assert traced > 0
    again = medcam.explain(model, x, layer=layer, target=1)
    assert seen[0] == traced
    for key, item in first.maps.items():
        assert again.maps[key].grid == item.grid
        assert torch.equal(again.maps[key].values, item.values)
    medcam.explain(model, torch.rand(2, 1, 24, 16), layer=layer, target=1)
    assert seen[0] > traced  # another shape is another first call


def test_layers_that_a_choice_has_seen_are_known(seen):
    model, x = net(), torch.rand(1, 1, 16, 16)
    medcam.explain(model, x, layer="auto", target=1)
    traced = seen[0]
    medcam.explain(model, x, layer="0.1", target=1)
    medcam.explain(model, x, layer="0", method="saliency", target=1)
    assert seen[0] == traced


def test_an_injected_model_and_windows_are_traced_once(seen):
    model = medcam.inject(net(), label=1)
    for _ in range(3):
        model(torch.rand(1, 1, 16, 16))
    assert 0 < seen[0] < 30
    seen[0] = 0
    segmenter = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    medcam.explain_volume(segmenter, torch.rand(1, 1, 40, 40), 16, layer="1", target=TARGET)
    assert 0 < seen[0] < 30  # of the first of nine windows


class Crops(nn.Module):
    """A network that looks at a part of its input only; subclasses say at which."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, 1, 1)
        self.head = nn.Linear(4, 2)
        self.first = 0
        self.firsts = [0, 0]

    def part(self, x, *args):
        return x

    def forward(self, x, *args):
        return self.head(self.conv(self.part(x, *args)).relu().mean((2, 3)))


class ByAttribute(Crops):
    def part(self, x):
        return x[..., self.first : self.first + 16]


class ByList(Crops):
    def part(self, x):
        return x[..., self.firsts[1] : self.firsts[1] + 16]


class ByArgument(Crops):
    def part(self, x, first):
        return x[..., first : first + 16]


class ByMapping(Crops):
    def part(self, x, options):
        return x[..., options["crop"][0] : options["crop"][0] + 16]


class ByBrightest(Crops):
    def part(self, x):
        first = min(int(x[0, 0, 0].argmax()), x.shape[3] - 16)
        return x[..., first : first + 16]


class ByItem(Crops):
    def part(self, x):
        first = int(x[0, 0, 0, 0])
        return x[..., first : first + 16]


class ByNumpy(Crops):
    def part(self, x):
        first = int(x[0, 0, 0].detach().numpy().argmax())
        return x[..., first : first + 16]


class ByArray(Crops):
    def part(self, x):
        first = int(np.argmax(np.asarray(x[0, 0, 0].detach())))
        return x[..., first : first + 16]


class ByValues(Crops):
    def part(self, x):
        values = x[0, 0, 0].tolist()
        first = values.index(max(values))
        return x[..., first : first + 16]


def first_of(model, *inputs):
    """Where the first cell of the layer lies, after the pixels that the crop left out."""
    map_ = medcam.explain(model, *inputs, layer="conv", target=1).map
    assert map_.grid.known
    assert map_.grid.step == (1.0, 1.0)
    return map_.grid.start[1]


def test_a_changed_attribute_is_another_first_call():
    model, x = ByAttribute().eval(), torch.rand(1, 1, 32, 48)
    for first in (0, 24, 7, 0):
        model.first = first
        assert first_of(model, x) == first
    model = ByList().eval()
    for first in (0, 24, 7, 0):
        model.firsts[1] = first
        assert first_of(model, x) == first


def test_another_argument_is_another_first_call():
    x = torch.rand(1, 1, 32, 48)
    model = ByArgument().eval()
    assert [first_of(model, x, first) for first in (0, 24, 7)] == [0, 24, 7]
    model = ByMapping().eval()
    assert [first_of(model, x, {"crop": (first, 1)}) for first in (0, 24, 7)] == [0, 24, 7]


def test_a_replaced_layer_is_another_first_call():
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), *head).eval()
    x = torch.rand(1, 1, 32, 32)
    assert medcam.explain(model, x, layer="0", target=1).map.grid.start == (0.5, 0.5)
    model[0] = nn.Conv2d(1, 4, 1, 2, 0)
    assert medcam.explain(model, x, layer="0", target=1).map.grid.start == (0.0, 0.0)
    model[0].dilation, model[0].padding = (2, 2), (3, 3)
    model[0].weight = nn.Parameter(torch.rand(4, 1, 4, 4))
    assert medcam.explain(model, x, layer="0", target=1).map.grid.start == (0.0, 0.0)
    model[0].padding = (2, 2)  # as many cells, one voxel further on
    assert medcam.explain(model, x, layer="0", target=1).map.grid.start == (1.0, 1.0)


@pytest.mark.parametrize("way", [ByBrightest, ByItem, ByNumpy, ByArray, ByValues])
def test_a_crop_around_what_was_found_is_traced_in_every_call(way):
    model = way().eval()
    for first in (0, 24, 7):
        x = torch.rand(1, 1, 32, 48)
        x[0, 0, 0, first] = 50.0
        x[0, 0, 0, 0] = first if way is ByItem else x[0, 0, 0, 0]
        assert first_of(model, x) == first
    injected = medcam.inject(way().eval(), layer="conv", label=1)
    for first in (24, 0, 7):
        x = torch.rand(1, 1, 32, 48)
        x[0, 0, 0, first] = 50.0
        x[0, 0, 0, 0] = first if way is ByItem else x[0, 0, 0, 0]
        injected(x)
        assert injected.get_explanation().map.grid.start[1] == first


class TwoWays(Crops):
    """A network that takes another way for reasons that nobody sees."""

    def is_bright(self, x):
        return False

    def part(self, x):
        return nn.functional.avg_pool2d(x, 2) if self.is_bright(x) else x


def test_a_model_that_takes_another_way_says_so_and_is_traced_again(monkeypatch):
    model, x = TwoWays().eval(), torch.rand(1, 1, 32, 32)
    ask = {"layer": "conv", "target": 1, "shape": None}
    assert medcam.explain(model, x, **ask).map.grid.step == (1.0, 1.0)
    monkeypatch.setattr(TwoWays, "is_bright", lambda self, x: True)
    with pytest.warns(UserWarning, match="took another way than in the call that was followed"):
        assert not medcam.explain(model, x, **ask).map.grid.known  # of this call only
    assert medcam.explain(model, x, **ask).map.grid.step == (2.0, 2.0)


def test_nothing_of_a_model_is_kept_alive():
    import gc
    import weakref

    model = net()
    medcam.explain(model, torch.rand(1, 1, 16, 16), target=1)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("version", ["here", "2.4"])
def test_subclasses_are_followed_also_where_pytorch_fails_inside_modes(version, monkeypatch):
    """As with PyTorch 2.4; the method that stands in for PyTorch's is removed again."""

    class Marked(torch.Tensor):
        pass

    if version == "2.4":
        monkeypatch.setattr(subclasses, "_fails_inside_modes", lambda: True)
    image = torch.rand(1, 1, 16, 16).as_subclass(Marked)
    tracer, made = Tracer([image]), []
    with tracer.following([]):
        made.append(torch.nn.functional.max_pool2d(image, 2).as_subclass(Marked))
    assert type(made[0]) is Marked
    assert tracer.origins(made[0])[0].start[2:] == (0.5, 0.5)
    assert "as_subclass" not in vars(torch.Tensor)
