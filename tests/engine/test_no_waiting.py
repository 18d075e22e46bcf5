"""No synchronisation with the device before the maps are read.

On PyTorch's "meta" device tensors have no values: reading one, copying it to the CPU or calling
``nonzero`` raises an error. Code that runs there does not synchronise on a GPU either.
"""

from __future__ import annotations

import pytest
import torch

import medcam
from medcam.targets import best, class_score, classes, voxel
from support.methods import ONCE
from support.nets import Classifier, UNet, image

pytestmark = pytest.mark.usefixtures("unchecked_layer")

TARGETS = [None, "best", "all", 1, [0, 1], class_score(1), classes(0, 2), best(),
           lambda logits: logits.flatten(1).sum(1)]  # fmt: skip


def on_meta(net: torch.nn.Module) -> torch.nn.Module:
    return net.eval().to("meta")


@pytest.mark.parametrize("net", [Classifier, UNet])
@pytest.mark.parametrize("method", ONCE)
def test_no_method_synchronises(net, method):
    found = medcam.explain(on_meta(net()), image().to("meta"), method=method)
    assert found.unchecked
    assert all(item.values.is_meta for item in found.unchecked.values())


@pytest.mark.parametrize("net", [Classifier, UNet])
@pytest.mark.parametrize("target", TARGETS)
def test_no_target_synchronises(net, target):
    found = medcam.explain(on_meta(net()), image().to("meta"), target=target)
    assert all(item.values.is_meta for item in found.unchecked.values())


@pytest.mark.parametrize("target", [voxel((2, 2), 1), medcam.targets.where(lambda y: y[:, 1] > 0)])
def test_no_target_of_segmentations_synchronises(target):
    medcam.explain(on_meta(UNet()), image().to("meta"), target=target)


@pytest.mark.parametrize("layer", ["auto", "full", "bottleneck"])
@pytest.mark.parametrize("memory", ["normal", "low"])
@pytest.mark.filterwarnings("ignore:memory='low' changes nothing")
def test_no_layer_synchronises(layer, memory):
    x = image().to("meta")
    medcam.explain(on_meta(UNet()), x, layer=layer, method=["gcam", "gbp"], memory=memory)


@pytest.mark.parametrize(
    "options", [{}, {"replace": True}, {"return_attention": True}, {"backend": "ggcam"}]
)
@pytest.mark.parametrize("training", [False, True])
def test_repeated_injected_calls_do_not_synchronise(options, training):
    model = medcam.inject(on_meta(UNet()), **options)
    with torch.set_grad_enabled(training):
        for _ in range(3):
            model(image().to("meta"))


def test_reading_a_map_synchronises():
    found = medcam.explain(on_meta(UNet()), image().to("meta"))
    with pytest.raises(RuntimeError, match="meta"):
        _ = found.map
    model = medcam.inject(on_meta(UNet()))
    model(image().to("meta"))
    with pytest.raises(RuntimeError, match="meta"):
        model.get_attention_map()
