"""Copies of an injected model: models with their own way of copying keep it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, fx, nn

import medcam

pytestmark = pytest.mark.usefixtures("unchecked_layer")


def plain_net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    return nn.Sequential(*layers).eval()


class Sub(fx.GraphModule):
    """A subclass of GraphModule, as quantisation and export tools have."""


class OwnCopies(nn.Sequential):
    """A model that makes its copies itself, by its constructor."""

    def __deepcopy__(self, memo: dict) -> nn.Module:
        return type(self)(*[copy.deepcopy(child, memo) for child in self]).eval()

    def __copy__(self) -> nn.Module:
        return type(self)(*self).eval()


KINDS = {
    "GraphModule": lambda: fx.symbolic_trace(plain_net()),
    "subclass of GraphModule": lambda: Sub(plain_net(), fx.symbolic_trace(plain_net()).graph),
    "Sequential that holds one": lambda: nn.Sequential(fx.symbolic_trace(plain_net())).eval(),
    "own copies": lambda: OwnCopies(*plain_net()).eval(),
    "plain": plain_net,
}


@pytest.mark.parametrize("way", ["deepcopy", "deepcopy twice", "copy", "pickle"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_injected_as_the_model_is(kind, way):
    net = KINDS[kind]()
    layer = "0.0" if kind == "Sequential that holds one" else "0"
    x = torch.rand(1, 1, 8, 8)
    expected = medcam.explain(net, x, layer=layer).map.normalized().numpy()
    model = medcam.inject(net, layer=layer)
    model(x)
    twin = {
        "deepcopy": copy.deepcopy,
        "deepcopy twice": lambda m: copy.deepcopy(copy.deepcopy(m)),
        "copy": copy.copy,
        "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    }[way](model)
    assert torch.equal(twin(x), net(x))
    torch.testing.assert_close(twin.get_attention_map(), expected)
    is_shared = next(twin.parameters()) is next(net.parameters())
    assert is_shared == (way == "copy")
    graph_module = isinstance(net, fx.GraphModule)
    assert isinstance(twin, fx.GraphModule) == graph_module
    plain = medcam.eject(twin)
    assert not hasattr(plain, "get_attention_map")
    assert torch.equal(plain(x), net(x))
    assert kind != "own copies" or type(plain) is OwnCopies


def test_a_copy_has_weights_and_settings_of_its_own():
    net = fx.symbolic_trace(plain_net())
    model = medcam.inject(net, layer="0")
    twin = copy.deepcopy(model)
    twin.disable_medcam()
    with torch.no_grad():
        next(twin.parameters()).zero_()
    x = torch.rand(1, 1, 8, 8)
    model(x)
    assert model.get_attention_map().any()
    assert twin.get_attention_map() is None


def test_shared_objects_are_copied_once():
    """As with the plain model: what a deep copy holds twice is one object there, too."""
    net = fx.symbolic_trace(plain_net())
    model = medcam.inject(net, layer="0")
    first, second = copy.deepcopy([model, model])
    assert first is second


def test_a_graph_that_is_changed_after_inject_still_makes_maps():
    net = fx.symbolic_trace(plain_net())
    model = medcam.inject(net, layer="0")
    x = torch.rand(1, 1, 8, 8)
    before: Tensor = model(x)
    output = next(node for node in model.graph.nodes if node.op == "output")
    with model.graph.inserting_before(output):
        doubled = model.graph.call_function(torch.mul, (output.args[0], 2))
    output.args = (doubled,)
    model.recompile()
    torch.testing.assert_close(model(x), 2 * before)
    doubled_map = medcam.explain(net, x, layer="0").map.normalized().numpy()
    torch.testing.assert_close(model.get_attention_map(), doubled_map)
    assert "mul" in model.code
