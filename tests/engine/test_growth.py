"""No leaks: after a thousand calls there are as many tensors, and as much memory, as after ten."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

import medcam
from support.nets import Classifier, UNet, image

CALLS = 1000
RSS_MB = 8  # fluctuation of the allocator; a map leaked by each call would take ten times as much
OPTIONS = {
    "gcam, automatic": {"backend": "gcam"},
    "gbp": {"backend": "gbp"},
    "ggcam": {"backend": "ggcam", "layer": "bottleneck"},
    "every layer": {"backend": "hirescam", "layer": "full"},
    "while training": {"backend": "gcam", "layer": "decoder"},
}


def live() -> int:
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # isinstance triggers deprecated properties of other packages
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.usefixtures("unchecked")  # as for a user; and checks of types take half the time
@pytest.mark.parametrize("name", OPTIONS)
def test_a_thousand_calls(name):
    net, x = UNet().eval(), image(batch=1, size=64)
    model = medcam.inject(net, label=medcam.targets.class_score(1), **OPTIONS[name])

    def call() -> None:
        with torch.set_grad_enabled(name == "while training"):
            model(x)

    for _ in range(20):
        call()
    tensors, memory = live(), resident()
    for _ in range(CALLS // len(OPTIONS)):
        call()
    assert live() <= tensors
    assert resident() - memory < RSS_MB * 2**20


def test_inputs_of_many_sizes_are_not_kept():
    model = medcam.inject(Classifier().eval())
    with torch.no_grad():
        model(image(size=20))
        tensors = live()
        for size in range(12, 40):
            model(image(size=size))
    assert live() <= tensors


def test_a_leak_is_detected():
    model, x = medcam.inject(Classifier().eval(), layer="features"), image()
    with torch.no_grad():
        model(x)
        tensors, kept = live(), []
        for _ in range(5):
            model(x)
            kept.append(model.get_explanation())
    assert live() >= tensors + 5
