"""One forward pass for any request; one backward pass for each target, back to the layer."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import medcam
from medcam.engine.notices import Notices
from medcam.targets import class_score, classes
from support.methods import ONCE
from support.nets import Classifier, UNet, image

pytestmark = pytest.mark.usefixtures("unchecked_layer")

BACKWARD = torch.ops.aten.convolution_backward.default
FORWARD = torch.ops.aten.convolution.default


class Operations(TorchDispatchMode):
    """Mode that counts the operations on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[object] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func] += 1
        return func(*args, **(kwargs or {}))


def counted(net: nn.Module, x: Tensor, **ask: object) -> Counter[object]:
    with Operations() as operations:
        medcam.explain(net, x, **ask)
    return operations.counts


@pytest.fixture(params=[Classifier, UNet])
def net(request) -> nn.Module:
    return request.param().eval()


@pytest.mark.parametrize("method", ONCE)
@pytest.mark.parametrize("target", [class_score(1), None])
@pytest.mark.filterwarnings("ignore::medcam.errors.MedcamWarning")
def test_no_operation_is_repeated_for_each_sample(net, method, target, monkeypatch):
    monkeypatch.setattr(Notices, "report", lambda self: None)  # a flag that is set is read further
    ask = {"method": method, "target": target}
    one, seven = (counted(net, image(batch=batch), **ask) for batch in (2, 9))
    assert one[FORWARD] == seven[FORWARD] == (2 if isinstance(net, Classifier) else 4)
    assert one == seven


@pytest.mark.parametrize("layer", ["down", "bottleneck", "decoder"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:A requested class is nowhere predicted")
def test_each_class_costs_a_backward_pass_back_to_the_layer(layer, count):
    after = {"down": 3, "bottleneck": 2, "decoder": 1}[layer]  # convolutions after it
    counts = counted(UNet().eval(), image(), layer=layer, target=classes(*range(count)))
    assert counts[FORWARD] == 4
    assert counts[BACKWARD] == count * after


@pytest.mark.parametrize("methods", [["gcam", "gcampp", "hirescam", "layercam", "xgradcam"]])
def test_all_methods_of_a_layer_share_one_backward_pass(methods):
    ask = {"layer": "bottleneck", "target": class_score(1)}
    counts = counted(UNet().eval(), image(), method=methods, **ask)
    assert counts[FORWARD] == 4
    assert counts[BACKWARD] == 2


def test_an_injected_model_costs_the_same():
    model = medcam.inject(UNet().eval(), layer="bottleneck", label=class_score(1))
    for _ in range(2):
        with torch.no_grad(), Operations() as operations:
            model(image(batch=3))
        assert operations.counts[FORWARD] == 4
        assert operations.counts[BACKWARD] == 2
