"""No leaks: after a thousand calls there are as many tensors, and as much memory, as after ten."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

import medcam
from support.methods import ONCE
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


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")  # as for a user; and checks of types take half the time
@pytest.mark.parametrize("name", OPTIONS)
def test_a_thousand_calls(name):
    net, x = UNet().eval(), image(batch=1, size=64)
    model = medcam.inject(net, label=medcam.targets.class_score(1), **OPTIONS[name])

    def call() -> None:
        with torch.set_grad_enabled(name == "while training"):
            model(x)

    for _ in range(100):  # until the allocator has taken what it needs
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


EVERY_OPTION = {
    **{f"method {name}": {"method": name} for name in ONCE},
    "noisy images": {"method": medcam.methods.smoothgrad("gcam", samples=2)},
    "a path": {"method": medcam.methods.intgrad(steps=2)},
    "boxes": {"method": medcam.methods.occlusion(size=32)},
    "masks": {"method": medcam.methods.rise(masks=4)},
    "masks of features": {"method": medcam.methods.scorecam(channels=2)},
    "without features": {"method": medcam.methods.ablationcam(channels=2)},
    "low memory": {"method": "saliency", "memory": "low"},
    "low memory, guided": {"method": ["gbp", "ggcam", "gcam"], "memory": "low"},
    "layer size": {"shape": None},
    "another size": {"shape": (20, 30)},
    "stretched": {"placement": "resize"},
    "without cuDNN": {"cudnn": False},
    "every target": {"target": "all", "layer": "bottleneck"},
    "a channel": {"target": medcam.targets.class_score(1)},
    "a region": {"target": medcam.targets.region_class(1)},
    "a function": {"target": lambda z: z[:, 1].mean((1, 2))},
    "part of the output": {"output": lambda y: y},
    "a layer by name": {"layer": "decoder"},
    "several layers": {"layer": ["bottleneck", "decoder"], "method": ["gcam", "hirescam"]},
    "every layer": {"layer": "full"},
}


def grown(call, calls):
    """Return by how many tensors and bytes the process has grown after some calls."""
    for _ in range(calls // 2):
        call()
    tensors, memory = live(), resident()
    for _ in range(calls):
        call()
    return live() - tensors, resident() - memory


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore::medcam.errors.MedcamWarning")
@pytest.mark.parametrize("name", ["low memory", "low memory, guided"])
def test_low_memory_keeps_nothing(name):
    net, x = UNet().eval(), image(batch=1, size=96)
    with torch.no_grad():
        tensors, _ = grown(lambda: medcam.explain(net, x, **EVERY_OPTION[name]), 10)
    assert tensors <= 0


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore::medcam.errors.MedcamWarning")
@pytest.mark.parametrize("name", EVERY_OPTION)
def test_every_option_is_flat(name):
    net, x = UNet().eval(), image(batch=1, size=64)
    options = dict(EVERY_OPTION[name])
    if "cudnn" in options:
        model = medcam.inject(net, **options)
        call = lambda: model(x)  # noqa: E731
    else:
        call = lambda: medcam.explain(net, x, **options)  # noqa: E731
    with torch.no_grad():
        tensors, memory = grown(call, 100)
    assert tensors <= 0
    assert memory < RSS_MB * 2**20


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore::medcam.errors.MedcamWarning")
@pytest.mark.parametrize("case", ["saved and scored", "with NaN", "in windows", "low memory, 3D"])
def test_every_way_is_flat(tmp_path, case):
    net, x = UNet().eval(), image(batch=2, size=32)
    if case == "in windows":
        call = lambda: medcam.explain_volume(net, x[:1], 16)  # noqa: E731
    elif case == "low memory, 3D":
        deep, volume = UNet(3).eval(), torch.rand(1, 1, 24, 24, 24)
        options = {"method": "saliency", "memory": "low"}
        call = lambda: medcam.explain(deep, volume, **options)  # noqa: E731
    else:
        if case == "with NaN":
            x[1, 0, 2, 2] = torch.nan
        model = medcam.inject(net, tmp_path, save_maps=True, evaluate=True, label=1)
        mask = torch.ones(2, 1, 32, 32)
        call = lambda: model(x, mask)  # noqa: E731
    with torch.no_grad():
        tensors, memory = grown(call, 60)
    assert tensors <= 0
    assert memory < RSS_MB * 2**20
