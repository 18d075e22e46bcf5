"""State that a model keeps on itself carries no graph, wherever it is, as under no_grad."""

from __future__ import annotations

import copy
from collections import deque, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import medcam
from medcam.engine.model import stored
from medcam.engine.model.stored import detach_stored_tensors

Pair = namedtuple("Pair", "first second")


class Cache:
    def __init__(self, tensor):
        self.keys = [tensor]


@dataclass
class Frozen:
    tensor: torch.Tensor


PLACES = {
    "tensor": lambda t: t,
    "tuple": lambda t: (t, 1),
    "named tuple": lambda t: Pair(t, "x"),
    "list": lambda t: [t, None],
    "dict": lambda t: {"a": t},
    "deque": lambda t: deque([t], maxlen=2),
    "set": lambda t: {t},
    "nested": lambda t: {"a": [(t, {"b": (t,)})]},
    "an object": Cache,
    "a dataclass": Frozen,
    "objects in a list": lambda t: [Cache(t)],
}


class Recurrent(nn.Module):
    """A network that remembers the features of the last image, somewhere."""

    def __init__(self, wrap):
        super().__init__()
        self.enc, self.fc, self.wrap = nn.Conv2d(1, 4, 3, 2, 1), nn.Linear(4, 2), wrap
        self.last, self.state = torch.zeros(1, 4, 8, 8), None

    def forward(self, x):
        features = torch.tanh(self.enc(x) + self.last)
        self.last = features
        self.state = self.wrap(features)
        return self.fc(features.mean((2, 3)))


def tensors_in(value, depth=0):
    if torch.is_tensor(value):
        yield value
    elif depth < 6:
        inside = vars(value).values() if hasattr(value, "__dict__") else value
        inside = inside.values() if isinstance(inside, dict) else inside
        if not isinstance(value, str | int | type(None)):
            for part in inside:
                yield from tensors_in(part, depth + 1)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("inject", [False, True])
def test_no_graph_is_kept(place, inject):
    net = Recurrent(PLACES[place]).eval()
    model = medcam.inject(net, layer="enc", label=1) if inject else net
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        for _ in range(3):
            model(x) if inject else medcam.explain(net, x, layer="enc", target=1)
    kept = [model.last, *tensors_in(model.state)]
    assert len(kept) > 1
    assert not any(tensor.requires_grad for tensor in kept)
    copy.deepcopy(model)  # a graph cannot be copied


class Holder(nn.Module):
    """A module of the user's own class; PyTorch's own ones store tensors in buffers only."""


def test_a_list_stays_the_list_that_it_is():
    module = Holder()
    holder = [torch.ones(1, requires_grad=True) * 2]
    module.kept = holder
    detach_stored_tensors([module])
    assert module.kept is holder
    assert holder[0].grad_fn is None


def test_what_holds_itself_ends():
    module = Holder()
    module.kept = [torch.ones(1, requires_grad=True) * 2]
    module.kept.append(module.kept)
    detach_stored_tensors([module])
    assert module.kept[0].grad_fn is None


def test_leaves_of_the_user_s_own_keep_their_gradient():
    module = Holder()
    module.kept = [torch.ones(1, requires_grad=True)]
    detach_stored_tensors([module])
    assert module.kept[0].requires_grad


def test_in_training_the_state_keeps_its_graph():
    net = Recurrent(lambda t: (t,)).train()
    medcam.inject(net, layer="enc", label=1)(torch.rand(1, 1, 16, 16))


def test_a_graph_that_was_there_before_the_call_stays():
    """A few-shot network keeps prototypes with a graph; explaining it does not end its training."""
    net = Recurrent(lambda t: (t.detach(),)).eval()
    weight = torch.ones(1, requires_grad=True)
    net.memory = {"prototypes": weight * 2}
    medcam.explain(net, torch.rand(1, 1, 16, 16), layer="enc", target=1)
    net.memory["prototypes"].sum().backward()
    assert weight.grad == 2


def test_a_large_container_of_data_is_not_walked_through(monkeypatch):
    module, walked = Holder(), []
    module.table = {number: number for number in range(10**5)}
    detached = stored._detached
    monkeypatch.setattr(stored, "_detached", lambda *parts: (walked.append(1), detached(*parts))[1])
    detach_stored_tensors([module])
    assert len(walked) < 10
