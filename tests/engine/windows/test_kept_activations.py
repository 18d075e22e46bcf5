"""Shared channel weights take their activations from the prediction pass."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import medcam
from medcam.engine.windows import kept as kept_module
from medcam.engine.windows import run as windows_run
from medcam.targets import class_score, region
from support.nets import UNet

SHARED = ["gcam", "gcampp", "xgradcam", "ggcam"]


def counted(net: nn.Module) -> list[int]:
    sizes: list[int] = []
    net.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    return sizes


def explained(net: nn.Module, **ask) -> Tensor:
    x = torch.rand(2, 1, 20, 24, generator=torch.Generator().manual_seed(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = medcam.explain_volume(net, x, 12, **{"target": class_score(1), **ask})
    return found.map.values


@pytest.fixture
def net():
    for seed in range(20):  # a network whose evidence for the class is positive somewhere
        torch.manual_seed(seed)
        net = UNet(2).eval()
        if explained(net, method="gcam", layer="bottleneck").any():
            return net
    raise AssertionError


@pytest.mark.parametrize("method", SHARED)
@pytest.mark.parametrize("options", [
    {}, {"sw_batch_size": 3}, {"mirror_axes": (0, 1)}, {"mode": "constant", "overlap": 0.5},
    {"layer": "auto"}, {"target": "all"}, {"placement": "resize"},
], ids=str)  # fmt: skip
def test_the_maps_are_those_of_a_second_pass(net, method, options, monkeypatch):
    ask = {"method": method, "layer": "bottleneck", **options}
    found = explained(net, **ask)
    monkeypatch.setattr(windows_run, "kept_activations", lambda *_: None)
    again = explained(net, **ask)
    assert torch.allclose(found, again, rtol=1e-5, atol=1e-6 * float(again.abs().max()))
    assert again.any()


def test_it_costs_no_second_pass(net):
    calls = counted(net)
    part = torch.zeros(20, 24)
    part[1, 1] = 1
    ask = {"layer": "bottleneck", "target": region(part, 1)}
    explained(net, method="layercam", **ask)
    windows = len(calls)  # the prediction, and those with the target
    assert windows < 2 * (2 * 6)
    calls.clear()
    explained(net, method="gcam", **ask)
    assert len(calls) == windows + 1  # one to compare with


def test_members_of_an_ensemble_have_their_own(net):
    torch.manual_seed(1)
    other = UNet(2).eval()
    both = explained([net, other], method="gcam", layer="bottleneck", target=class_score(1))
    signed = medcam.methods.get("gcam", rectify=False)
    alone = [explained(m, method=signed, layer="bottleneck") for m in (net, other)]
    assert torch.allclose(both, (sum(alone) / 2).relu(), atol=1e-6)


@pytest.mark.parametrize("why", ["memory", "twice", "tuple"])
def test_what_cannot_be_kept_is_run_again(net, why, monkeypatch):
    if why == "memory":
        monkeypatch.setattr(kept_module, "_MOST_BYTES", 1000)
    if why == "twice":

        class Twice(UNet):
            def forward(self, x):
                self.bottleneck(torch.rand(1, *self.bottleneck[0].weight.shape[1:2], 3, 3))
                return super().forward(x)

        net.__class__ = Twice
    found = explained(net, method="gcam", layer="bottleneck")
    monkeypatch.setattr(windows_run, "kept_activations", lambda *_: None)
    assert torch.allclose(found, explained(net, method="gcam", layer="bottleneck"), atol=1e-7)


def test_a_layer_that_is_written_to_afterwards_is_kept_as_it_was():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.head(self.conv(x).relu_())

    net = InPlace().eval()
    found = explained(net, method="gcam", layer="conv")
    whole = medcam.explain_volume(
        net, torch.rand(2, 1, 20, 24, generator=torch.Generator().manual_seed(3)), 12, layer="conv",
        method="gcam", target=class_score(1),
        logits=net(torch.rand(2, 1, 20, 24, generator=torch.Generator().manual_seed(3))).detach(),
    ).map.values  # fmt: skip
    assert torch.allclose(found, whole, atol=1e-6)
