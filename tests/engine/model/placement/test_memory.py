"""The places are traced in the first call and remembered: operations are counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import medcam
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


class TwoWays(nn.Module):
    """A network that takes another way for bright images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, 2, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = nn.functional.avg_pool2d(x, 2) if bool(x.mean() > 1) else x
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_a_model_that_takes_another_way_is_traced_again():
    model, dark = TwoWays().eval(), torch.rand(1, 1, 32, 32)
    ask = {"layer": "conv", "target": 1, "shape": None}
    assert medcam.explain(model, dark, **ask).map.grid.step == (2.0, 2.0)
    bright = medcam.explain(model, dark + 1, **ask).map
    assert not bright.grid.known  # of this call only
    assert medcam.explain(model, dark + 1, **ask).map.grid.step == (4.0, 4.0)


def test_nothing_of_a_model_is_kept_alive():
    import gc
    import weakref

    model = net()
    medcam.explain(model, torch.rand(1, 1, 16, 16), target=1)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
