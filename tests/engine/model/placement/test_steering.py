"""Networks whose way depends on values: their places are found anew in each call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from support.places import ASK, Steered, blob, column

X = blob(40, 20)[None, None]


def centre_of_mass(x):
    columns = torch.arange(64)
    return (x.sum((0, 1, 2)) * columns).sum() / x.sum()


def crop(x, first, length=32):
    return x[..., first : first + length]


VALUES = {
    "flag": (lambda m, x, t: x.flip(-1) if t.item() else x, [torch.tensor(0), torch.tensor(1)]),
    "comparison": (lambda m, x, t: x.flip(-1) if t[0] > 0 else x, torch.tensor([[-1.0], [1.0]])),
    "offset": (lambda m, x, t: crop(x, int(t)), [torch.tensor(0), torch.tensor(12)]),
    "index": (
        lambda m, x, t: x.index_select(3, t), [torch.arange(32), torch.arange(8, 40)]
    ),
    "through NumPy": (
        lambda m, x, t: crop(x, int(t.numpy().sum())), [torch.tensor([4]), torch.tensor([14])]
    ),
}  # fmt: skip


@pytest.mark.parametrize("injected", [False, True])
@pytest.mark.parametrize("way", VALUES)
def test_other_inputs_may_steer(way, injected, tmp_path):
    forward, values = VALUES[way]
    model = Steered(forward).eval()
    inject = medcam.inject(model, tmp_path, layer="encoder", label=1) if injected else None
    for value in values:
        assert abs(column(model, X, value, inject=inject) - 20) <= 1


def test_the_image_itself_may_steer():
    model = Steered(
        lambda m, x: x[..., (centre_of_mass(x).round().long() - 16).clamp(0, 32) + torch.arange(32)]
    ).eval()
    for place in (20, 44, 30):
        assert abs(column(model, blob(40, place)[None, None]) - place) <= 1


@pytest.mark.parametrize("order", ["argsort", "sort", "max", "randperm"])
def test_views_in_an_order_of_their_values(order):
    def views_of(model, v):
        brightest = v.flatten(2).amax(2)[0]
        index = {
            "argsort": lambda: brightest.argsort(),
            "sort": lambda: brightest.sort(descending=True).indices,
            "max": lambda: brightest.max(0, keepdim=True).indices,
            "randperm": lambda: torch.randperm(4),
        }[order]()
        return v[:, index].flatten(0, 1)

    class Views(Steered):
        def forward(self, v):
            score = self.encoder(views_of(self, v)).flatten(1).mean(1).view(len(v), -1).amax(1)
            return torch.stack([-score, score], 1)

    model = Views(None).eval()
    for view in (0, 1, 2, 3):
        images = torch.zeros(1, 4, 1, 64, 64)
        images[0, view, 0] = blob(40, 20)
        values = medcam.explain(model, images, **ASK).map.values[0, 0]
        assert int(values.flatten(1).amax(1).argmax()) == view


SETTINGS = {
    "buffer": (torch.tensor(0), torch.tensor(14)),
    "attribute": (0, 14),
    "dict": ({"first": 0}, {"first": 14}),
}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_may_be_changed(kind, in_place):
    before, after = SETTINGS[kind]
    model = Steered(
        lambda m, x: crop(x, int(m.first["first"] if isinstance(m.first, dict) else m.first)),
        first=before if kind != "buffer" else before.clone(),
    ).eval()
    assert abs(column(model, X) - 20) <= 1
    if in_place and kind == "buffer":
        model.first.fill_(14)
    elif in_place and kind == "dict":
        model.first["first"] = 14
    else:
        model.first = after
    assert abs(column(model, X) - 20) <= 1


@pytest.mark.parametrize("source", ["torch", "numpy"])
def test_random_crops(source):
    draw = {
        "torch": lambda: int(torch.randint(0, 14, ())),
        "numpy": lambda: int(np.random.randint(0, 14)),  # noqa: NPY002  # as networks do
    }[source]
    model = Steered(lambda m, x: crop(x, draw(), 40)).eval()
    for _ in range(5):
        assert abs(column(model, X) - 20) <= 1


def test_constants_and_parameters_do_not_steer(monkeypatch):
    """Reading a window size or a learned scale costs no tracing in later calls."""
    from medcam.engine.model.placement.tracer import Tracer

    class Constant(Steered):
        def __init__(self):
            super().__init__(None)
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("order", torch.arange(64))

        def forward(self, x):
            size = int(torch.tensor([32, 32]).prod().sqrt())
            x = x[..., self.order][..., : 2 * size] * float(self.scale.detach())
            score = self.encoder(x).flatten(1).mean(1)
            return torch.stack([-score, score], 1)

    seen = []
    dispatch = Tracer.__torch_dispatch__
    monkeypatch.setattr(
        Tracer, "__torch_dispatch__", lambda *a, **k: seen.append(1) or dispatch(*a, **k)
    )
    model = Constant().eval()
    column(model, X)
    count = len(seen)
    column(model, X)
    assert len(seen) == count > 0
