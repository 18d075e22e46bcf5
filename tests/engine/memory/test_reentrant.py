"""Maps through re-entrant activation checkpointing equal those of the network without it."""

from __future__ import annotations

import copy
import itertools
import threading
import warnings
from functools import partial

import pytest
import torch
import torch.utils.checkpoint as checkpoint_module
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction, checkpoint, checkpoint_sequential

import medcam
from medcam.engine.memory.reentrant import transparent
from medcam.engine.model.leaves import is_trained, new_leaf
from medcam.engine.passes import _forward_modes
from medcam.engine.request import Request

pytestmark = pytest.mark.filterwarnings(
    "ignore:None of the inputs have requires_grad=True:UserWarning"
)


def _block(i: int, o: int, *, batch_norm: bool = False, dropout: float = 0.0) -> nn.Module:
    norm = nn.BatchNorm2d(o) if batch_norm else nn.GroupNorm(2, o)
    return nn.Sequential(nn.Conv2d(i, o, 3, 1, 1), norm, nn.ReLU(), nn.Dropout(dropout))


class Net(nn.Module):
    """A stem, two blocks and a decoder; the blocks are checkpointed if ``way`` says how."""

    def __init__(self, way=None, **options: object) -> None:
        super().__init__()
        self.way = way
        self.stem = _block(1, 4, **options)
        self.one = _block(4, 8, **options)
        self.two = nn.Sequential(nn.MaxPool2d(2), _block(8, 8, **options))
        self.last = nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Linear(8, 3)

    def run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        return block(*inputs) if self.way is None else self.way(block, *inputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.run(self.one, self.stem(x))
        x = self.run(lambda y: torch.tanh(self.two(y)) + 0.1, x)
        return self.head(self.last(x).mean((2, 3)))


class FromTheImage(Net):
    """The first block is checkpointed on the image itself, which requires no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.way is None else self.head(self._features(x))

    def _features(self, x: Tensor) -> Tensor:
        x = self.run(self.one, self.run(self.stem, x))
        x = self.run(lambda y: torch.tanh(self.two(y)) + 0.1, x)
        return self.last(x).mean((2, 3))


class Nested(Net):
    """A checkpointed block with checkpointed blocks inside."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.run(lambda y: self.run(self.two, self.run(self.one, y)), self.stem(x))
        return self.head(self.last(torch.tanh(x) + 0.1).mean((2, 3)))


class NestedPlain(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.stem(x)))
        return self.head(self.last(torch.tanh(x) + 0.1).mean((2, 3)))


class Inside(nn.Module):
    """A block that checkpoints what is inside it, as Swin transformers do."""

    def __init__(self, way, channels: int = 8) -> None:
        super().__init__()
        self.way = way
        self.inner = nn.Sequential(*[_block(channels, channels) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.inner(x) if self.way is None else self.way(self.inner, x))


class Blocks(nn.Module):
    """Blocks that ``memory="low"`` checkpoints as a whole."""

    def __init__(self, way=None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1)
        self.blocks = nn.Sequential(*[Inside(way) for _ in range(4)])
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.functions = [function]  # not a part of this module

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.functions[0](*inputs)


def reentrant(function, *inputs):
    return checkpoint(function, *inputs, use_reentrant=True)


def by_module(function, *inputs):
    return checkpoint_module.checkpoint(function, *inputs, use_reentrant=True)


def by_function(function, *inputs):
    return CheckpointFunction.apply(function, True, *inputs)


def without_rng(function, *inputs):
    return checkpoint(function, *inputs, use_reentrant=True, preserve_rng_state=False)


def in_a_sequence(function, *inputs):
    steps = nn.Sequential(Call(function), nn.Identity())
    return checkpoint_sequential(steps, 2, *inputs, use_reentrant=True)


WAYS = [reentrant, by_module, by_function, without_rng, in_a_sequence]
CALLS = [
    {},
    {"layer": "stem.0"},
    {"layer": "one.1"},
    {"layer": ["stem", "one", "two", "last"], "method": ["gcam", "gcampp", "hirescam"]},
    {"layer": "two.1.2"},
    {"layer": "last"},
    {"layer": "full"},
    {"method": "gbp"},
    {"method": ["saliency", "inputxgradient"]},
    {"method": "ggcam", "layer": "one"},
    {"method": ["gcam", "gbp"], "layer": "full"},
    {"method": "gbp", "memory": "low"},
]


def pair(kind=Net, plain=None, way=reentrant, **options):
    """Return the network with checkpointing, and the same without it."""
    torch.manual_seed(0)
    net = kind(way, **options).eval().double()
    other = (plain or kind)(None, **options).eval().double()
    other.load_state_dict(net.state_dict())
    return net, other


def assert_same_maps(ours, theirs):
    assert ours.maps.keys() == theirs.maps.keys()
    for key, item in ours.maps.items():
        assert float(item.values.abs().max()) > 0
        torch.testing.assert_close(item.values, theirs.maps[key].values, rtol=1e-10, atol=1e-14)


@pytest.mark.filterwarnings("ignore:.*memory='low':medcam.errors.MedcamWarning")
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_explain_equals_the_network_without_checkpoints(call):
    for way, (kind, plain) in itertools.product(
        WAYS, [(Net, Net), (FromTheImage, FromTheImage), (Nested, NestedPlain)]
    ):
        net, other = pair(kind, plain, way)
        x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
        ours, theirs = medcam.explain(net, x, **call), medcam.explain(other, x, **call)
        assert_same_maps(ours, theirs)
        with torch.no_grad():
            assert torch.equal(ours.output, net(x))
        assert "apply" not in vars(CheckpointFunction)


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("backend", ["gcam", "gbp", "ggcam", "saliency"])
@pytest.mark.parametrize("layer", ["auto", "stem", "one.0", "full"])
@pytest.mark.parametrize("kind", [Net, FromTheImage])
def test_inject_makes_the_same_maps(kind, layer, backend, grad):
    net, other = pair(kind)
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    model = medcam.inject(net, backend=backend, layer=layer)
    with torch.set_grad_enabled(grad):
        output = model(x)
    assert torch.equal(output, other(x))
    assert_same_maps(model.get_explanation(), medcam.explain(other, x, method=backend, layer=layer))


def _trained(model: nn.Module, x: Tensor, steps: int) -> dict[str, Tensor | None]:
    torch.manual_seed(1)
    gradients = {}
    for _ in range(steps):
        model.zero_grad()
        model(x).square().sum().backward()
        gradients = {
            name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
        }
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.01 * p.grad
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    return {**gradients, **buffers, "next random number": torch.rand(())}


@pytest.mark.filterwarnings("ignore:.*training mode:medcam.errors.MedcamWarning")
@pytest.mark.parametrize("way", [reentrant, None, "not re-entrant"])
@pytest.mark.parametrize("kind", [Net, FromTheImage, Nested])
@pytest.mark.parametrize(
    ("backend", "layer"), [("gcam", "auto"), ("gcam", "one"), ("gbp", "auto"), ("gcam", "full")]
)
def test_training_is_as_without_medcam(backend, layer, kind, way):
    """Also where a block trains nothing, and statistics and dropout of blocks run twice."""
    if way == "not re-entrant":

        def way(function, *inputs):
            return checkpoint(function, *inputs, use_reentrant=False)

    net, _ = pair(kind, way=way, batch_norm=True, dropout=0.3)
    net.train()
    other = copy.deepcopy(net)
    x = torch.rand(4, 1, 16, 16, dtype=torch.float64)
    model = medcam.inject(net, backend=backend, layer=layer)
    ours, theirs = _trained(model, x, 3), _trained(other, x, 3)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (value is None) == (ours[name] is None), name
        if value is not None:
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12, msg=name)
    assert kind is not FromTheImage or way is not reentrant or theirs["stem.0.weight"] is None


def test_training_still_saves_the_memory():
    """The tensors inside a block are freed after the forward pass."""
    saved = {}
    for way in (reentrant, None):
        net, _ = pair(way=way)
        kept = []

        def pack(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            medcam.inject(net, layer="last")(torch.rand(1, 1, 32, 32, dtype=torch.float64))
        saved[way] = sum(kept)
    assert saved[reentrant] < 0.7 * saved[None]


def test_pytorchs_own_is_restored_after_an_error_and_untouched_in_other_threads():
    net, _ = pair()
    seen = []

    def fails(*inputs):
        seen.append("apply" in vars(CheckpointFunction))
        x = torch.rand(2, requires_grad=True)
        thread = threading.Thread(
            target=lambda: seen.append(type(reentrant(torch.exp, x).grad_fn).__name__)
        )
        thread.start()
        thread.join()
        raise ZeroDivisionError

    net.last.register_forward_hook(fails)
    with pytest.raises(ZeroDivisionError):
        medcam.explain(net, torch.rand(1, 1, 16, 16, dtype=torch.float64), layer="one")
    assert seen == [True, "CheckpointFunctionBackward"]
    assert "apply" not in vars(CheckpointFunction)


def test_two_threads_at_once_make_their_own_maps():
    nets = [pair(way=way)[0] for way in (reentrant, without_rng)]
    x = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    expected = medcam.explain(nets[0], x, layer="one").map.values
    found = []

    def work(net: nn.Module) -> None:
        for _ in range(10):
            values = medcam.explain(net, x, layer="one").map.values
            found.append(torch.allclose(values, expected, rtol=1e-12))

    threads = [threading.Thread(target=work, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20
    assert "apply" not in vars(CheckpointFunction)


def test_another_patch_of_apply_is_kept(monkeypatch):
    calls = []

    @classmethod
    def patched(cls, *args):
        calls.append(cls)
        return super(CheckpointFunction, cls).apply(*args)

    monkeypatch.setattr(CheckpointFunction, "apply", patched)
    net, _ = pair()
    x = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    medcam.explain(net, x, layer="one")
    assert not calls
    net(x)
    assert calls == [CheckpointFunction] * 2


def test_the_warning_that_nothing_is_trained_is_pytorchs():
    net, _ = pair(FromTheImage)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        medcam.inject(net)(torch.rand(1, 1, 16, 16, dtype=torch.float64))
    assert any("None of the inputs have requires_grad" in str(item.message) for item in caught)


def test_a_leaf_of_medcam_does_not_count_as_trained():
    weight = torch.rand(3, requires_grad=True)
    leaf = new_leaf(torch.rand(3))
    assert not is_trained(leaf)
    assert not is_trained(leaf * 2)
    assert not is_trained(weight.detach())
    assert not is_trained("text")
    assert is_trained(weight)
    assert is_trained((leaf * weight).exp())


@pytest.mark.filterwarnings("ignore:.*memory='low':medcam.errors.MedcamWarning")
@pytest.mark.parametrize("memory", ["normal", "low"])
@pytest.mark.parametrize("kind", [Net, Nested, Blocks])
def test_training_recomputes_blocks_in_another_thread(kind, memory, monkeypatch):
    """As on a GPU, whose backward pass runs in a thread of its own, after the call.

    The recomputation has to be what the forward pass was: nothing in it is re-entrant.
    """
    net, other = pair(kind)[0], pair(kind)[0]
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    output = medcam.inject(net, backend="gbp", memory=memory)(x)
    errors, reentrant_runs, forward = [], [], CheckpointFunction.forward

    def recording(*args):
        reentrant_runs.append(1)
        return forward(*args)

    monkeypatch.setattr(CheckpointFunction, "forward", staticmethod(recording))

    def backward() -> None:
        try:
            output.square().sum().backward()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=backward)
    thread.start()
    thread.join()
    assert errors == []
    assert reentrant_runs == []
    other(x).square().sum().backward()
    for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_block_of_low_memory_is_recomputed_alike_in_a_thread_of_the_device():
    modes = partial(
        _forward_modes, Request.of("gbp"), True, partial(transparent, [], keep_graph=False)
    )
    seen = []

    def recompute() -> None:
        with modes():
            node = reentrant(torch.exp, torch.rand(2, requires_grad=True)).grad_fn
            seen.append(type(node).__name__)

    thread = threading.Thread(target=recompute)
    thread.start()
    thread.join()
    assert seen == ["ExpBackward0"]
