"""Ctrl-C at any line leaves no hook, no frozen parameter, no mode, and no graph."""

from __future__ import annotations

import random
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import medcam
from medcam.explanation.layer_table import overview
from support.nets import UNet, image

SOURCE = str(Path(medcam.__file__).parent)


class Stateful(nn.Module):
    """A U-Net in training mode in parts, with state, a checkpoint and instance norms."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet(2)
        self.norm = nn.InstanceNorm2d(1, affine=True, track_running_stats=True)
        self.kept = []

    def forward(self, x):
        x = self.norm(x)
        self.kept = [x]
        return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=True)


WAYS = {
    "auto": lambda net, x: medcam.explain(net, x),
    "one layer": lambda net, x: medcam.explain(net, x, layer="net.bottleneck"),
    "all layers": lambda net, x: medcam.explain(net, x, layer="full", method="hirescam"),
    "guided": lambda net, x: medcam.explain(net, x, method=["gbp", "ggcam"]),
    "low memory": lambda net, x: medcam.explain(net, x, method="saliency", memory="low"),
    "windows": lambda net, x: medcam.explain_volume(net, x, 16, overlap=0.5),
    "injected": lambda net, x: medcam.inject(net, cudnn=False)(x),
    "overview": lambda net, x: overview(net, x),
}


class Interrupt:
    """Raise KeyboardInterrupt at the n-th line of medcam that runs."""

    def __init__(self, line: int) -> None:
        self.left, self.raised = line, False

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        return self._line

    def _line(self, frame, event, argument):
        if event == "line" and not self.raised:
            self.left -= 1
            if self.left <= 0:
                self.raised = True
                raise KeyboardInterrupt
        return self._line

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *error):
        sys.settrace(self.before)


def state_of(net, x):
    """Return all that a call may change for its length."""
    modules = list(net.modules())
    return {
        "hooks": [
            [list(hooks) for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
            for m in modules
        ],
        "gradients": [p.requires_grad for p in net.parameters()],
        "training": [m.training for m in modules],
        "forwards": ["forward" in vars(m) for m in modules],
        "buffers": [id(b) for b in net.buffers()],
        "input": (x.requires_grad, x.grad is None),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "functions": torch._C._len_torch_function_stack(),
        "dispatches": torch._C._len_torch_dispatch_stack(),
        "cudnn": torch.backends.cudnn.enabled,
        "checkpoint": "apply" in vars(torch.utils.checkpoint.CheckpointFunction),
    }


def lines_of(call):
    """Return how many lines of medcam a call runs."""
    counter = Interrupt(10**9)
    with counter:
        call()
    return 10**9 - counter.left


def interrupted(way, count, seed):
    torch.manual_seed(0)
    net, x = Stateful().eval(), image(batch=1, size=32)

    def call():
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return WAYS[way](net, x)

    call()
    total = lines_of(call)
    before = state_of(net, x)
    rng = random.Random(seed)  # noqa: S311  # not for secrets
    for line in sorted(rng.randint(1, total) for _ in range(count)):
        with Interrupt(line) as interrupt:
            try:
                call()
            except BaseException:  # PyTorch wraps it in errors of its own
                if not interrupt.raised:
                    raise
        after = state_of(net, x)
        assert after == before, (way, line, {k: v for k, v in after.items() if v != before[k]})
        assert all(tensor.grad_fn is None for tensor in net.kept), (way, line)
    expected = WAYS["one layer"](net, x).map.values
    assert torch.equal(expected, WAYS["one layer"](net, x).map.values)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("way", WAYS)
def test_at_some_lines(way):
    interrupted(way, 25, seed=1)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("way", WAYS)
def test_at_2000_random_lines(way):
    interrupted(way, 250, seed=2)


class Late(nn.Conv2d):
    """Stands for Ctrl-C while hooks are registered."""

    def register_forward_hook(self, *args, **kwargs):
        raise KeyboardInterrupt


@pytest.mark.parametrize("layer", ["full", "auto", ["0", "2"]])
def test_while_hooks_are_registered(layer):
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), Late(8, 2, 3)).eval()
    with pytest.raises(KeyboardInterrupt):
        medcam.explain(net, torch.rand(1, 1, 32, 32), layer=layer)
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_recorder_whose_call_has_ended_stores_nothing():
    net, x, kept = UNet(2).eval(), image(batch=1), []

    def keep(module, inputs, output):
        kept.append([*module._forward_hooks.values()])

    net.bottleneck.register_forward_hook(keep)
    medcam.explain(net, x, layer="bottleneck")
    hook = next(hook for hook in kept[0] if hook is not keep)
    output = torch.rand(1, 8, 4, 4)
    assert hook(net.bottleneck, (x,), output) is None
