"""Outputs of models: the right tensor is explained, and the output is returned unchanged."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass, fields

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput

import medcam
from medcam.engine.model.nested import map_tensors, tensors
from medcam.engine.model.outputs import select
from medcam.errors import InputError, InputTypeError
from support.nets import Classifier, UNet, image

pytestmark = pytest.mark.filterwarnings("ignore:The model returns several tensors")

Pair = namedtuple("Pair", ["aux", "seg"])


@dataclass
class Plain:
    aux: Tensor
    seg: Tensor
    note: str = "kept"


@dataclass(frozen=True)
class Frozen:
    aux: Tensor
    logits: Tensor


@dataclass(frozen=True, slots=True)
class Slotted:
    aux: Tensor
    logits: Tensor


@dataclass
class ModelOutputLike(OrderedDict):
    """A dict and a dataclass at once, as in transformers."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    def __post_init__(self):
        for field in fields(self):
            if getattr(self, field.name) is not None:
                OrderedDict.__setitem__(self, field.name, getattr(self, field.name))

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        object.__setattr__(self, key, value)


class Returning(nn.Module):
    """A network whose result is packed in some way."""

    def __init__(self, net, pack):
        super().__init__()
        self.net, self.pack = net, pack

    def forward(self, x):
        return self.pack(self.net(x))


def small(z):
    return -F.avg_pool2d(z, 2)


def label(z):
    return -z.flatten(2).mean(2)


def wide(z):
    return torch.cat([z, -z], 1)


# `z` are the logits that should be explained; all other tensors are decoys.
AUTOMATIC = {
    "tensor": lambda z: z,
    "tuple of one": lambda z: (z,),
    "list": lambda z: [label(z), z],
    "(mask, label)": lambda z: (z, label(z)),
    "(label, mask)": lambda z: (label(z), z),
    "(logits, coarse features)": lambda z: (z, small(wide(z))),
    "(coarse features, logits)": lambda z: (small(wide(z)), z),
    "(logits, features)": lambda z: (z, wide(z)),
    "(loss, logits)": lambda z: (z.mean(), z),
    "(classes, logits)": lambda z: (z.argmax(1), z),
    "named tuple": lambda z: Pair(label(z), z),
    "dict": lambda z: {"aux": label(z), "seg": z},
    "{out, aux}": lambda z: {"aux": -z, "out": z},
    "{logits, out}": lambda z: {"out": -z, "logits": z},
    "ordered dict": lambda z: OrderedDict(aux=-z, out=z),
    "dataclass": lambda z: Plain(label(z), z),
    "frozen dataclass": lambda z: Frozen(-z, z),
    "dataclass with slots": lambda z: Slotted(-z, z),
    "like a ModelOutput": lambda z: ModelOutputLike(z.mean(), z, (-z, -z)),
    "ModelOutput": lambda z: SemanticSegmenterOutput(z.mean(), z, (-z, wide(z))),
    "tuple of dicts": lambda z: ({"a": label(z)}, {"b": [z]}),
    "dict of lists": lambda z: {"a": [label(z), (z.mean(),)], "b": [[z]]},
    "nothing beside it": lambda z: {"note": "text", "none": None, "z": z, "number": 3},
    "deep supervision": lambda z: [z, small(z), small(small(z))],
    "deep supervision, coarse first": lambda z: (small(small(z)), small(z), z),
    "deep supervision in a dict": lambda z: {"seg": [small(z), z]},
    "deep supervision, two fine ones": lambda z: [z, -z, small(z)],
}


@pytest.fixture
def net():
    return UNet(2).eval()


def explain(net, pack, **kwargs):
    """Return the raw maps of a network that returns the logits `z` alone, and the explanation."""
    ask = {"layer": "net.bottleneck", "method": "hirescam", "target": medcam.targets.class_score(1)}
    x = image(size=8)
    plain = medcam.explain(Returning(net, lambda z: z), x, **ask)
    return plain.map.values, medcam.explain(Returning(net, pack), x, **ask, **kwargs), x


def same(found, expected):
    """Assert equal types, order, keys, tensors bit for bit, and other values."""
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        assert not found.requires_grad
        assert torch.equal(found, expected)
    elif isinstance(expected, (tuple, list)):
        assert len(found) == len(expected)
        for one, two in zip(found, expected, strict=True):
            same(one, two)
    elif isinstance(expected, dict):
        same(list(found.items()), list(expected.items()))
    elif not hasattr(expected, "__dataclass_fields__"):
        assert found == expected
    for field in getattr(expected, "__dataclass_fields__", ()):
        same(getattr(found, field), getattr(expected, field))


@pytest.mark.parametrize("kind", AUTOMATIC)
def test_automatic_choice_and_the_output_as_it_was(net, kind):
    expected, found, x = explain(net, AUTOMATIC[kind])
    assert torch.equal(found.map.values, expected)
    assert expected.any()
    with torch.no_grad():
        same(found.output, AUTOMATIC[kind](net(x)))


@pytest.mark.parametrize(
    ("selector", "pack"),
    [
        (3, lambda z: (-z, 2 * z, wide(z), z, label(z))),
        (-2, lambda z: [-z, 2 * z, wide(z), z, label(z)]),
        (1, lambda z: Pair(-z, z)),
        (1, lambda z: {"first": -z, "second": z}),
        (7, lambda z: {0: -z, 7: z}),
        ("second", lambda z: {"out": -z, "second": z}),
        ("seg", lambda z: Pair(-z, z)),
        ("seg", lambda z: Plain(-z, z)),
        ("logits", lambda z: Slotted(-z, z)),
        ("items", lambda z: {"out": -z, "items": z}),
        ("hidden_states", lambda z: SemanticSegmenterOutput(logits=-z, hidden_states=(z,))),
        (0, lambda z: ({"out": z, "aux": -z}, -z)),  # the default rule applies to the selected part
        (1, lambda z: (-z, [small(z), z])),
        (lambda out: out[1]["a"], lambda z: (-z, {"a": z})),
        (lambda out: out[:, 1], lambda z: torch.stack([-z, z], 1)),
        (lambda out: out[0] - out[1], lambda z: (z * 2, z)),
    ],
)
def test_selectors(net, selector, pack):
    expected, found, x = explain(net, pack, output=selector)
    torch.testing.assert_close(found.map.values, expected, rtol=1e-5, atol=1e-9)
    with torch.no_grad():
        same(found.output, pack(net(x)))


def test_a_classifier_s_logits_are_found_in_its_model_output():
    x = image()
    net = Returning(Classifier().eval(), lambda z: ImageClassifierOutput(logits=z))
    found = medcam.explain(net, x, layer="net.features", method="hirescam", target=1)
    plain = medcam.explain(net.net, x, layer="features", method="hirescam", target=1)
    assert torch.equal(found.map.values, plain.map.values)
    assert type(found.output) is ImageClassifierOutput


def test_the_choice_is_logged(net, caplog):
    caplog.set_level("INFO", logger="medcam")
    explain(net, lambda z: {"aux": -z, "out": z})
    assert "output['out']" in caplog.text
    assert "[2, 3, 8, 8]" in caplog.text


@pytest.mark.parametrize(
    ("pack", "selector", "kind", "said"),
    [
        (lambda z: {"a": -z, "b": z}, "c", InputError, ["output='c'", "['a']", "['b']"]),
        (lambda z: (-z, z), 5, InputError, ["output=5", "tuple", "[1] [2, 3, 8, 8]"]),
        (lambda z: z, "logits", InputError, ["a tensor of shape [2, 3, 8, 8]"]),
        (lambda z: z, 0, InputError, ["output=0", "[2, 3, 8, 8]"]),
        (lambda z: z.argmax(1), None, InputError, ["int64", "no gradient", "output="]),
        (lambda z: (z, z.argmax(1)), 1, InputError, ["int64", "output[1]"]),
        (lambda z: z[:1], None, InputError, ["[1, 3, 8, 8]", "2 sample(s)", "output="]),
        (lambda z: z.mean(), None, InputError, ["shape []", "batch"]),
        (lambda z: z[:, None], None, InputError, ["more axes", "output=lambda"]),
        (lambda z: None, None, InputTypeError, ["NoneType", "output="]),
        (lambda z: {"a": "text"}, None, InputTypeError, ["dict", "no tensors"]),
        (lambda z: (z.mean(), z.argmax(1)), None, InputTypeError, ["batch size 2", "output="]),
        (lambda z: (z, z), lambda out: None, InputTypeError, ["selects None", "tuple"]),
    ],
)
def test_outputs_that_cannot_be_explained(net, pack, selector, kind, said):
    with pytest.raises(kind) as error:
        explain(net, pack, output=selector)
    assert all(words in str(error.value) for words in said)


# ------------------------------------------------------------------------------- nested values


def test_a_single_channel_without_its_axis_gets_it_back():
    z = torch.rand(2, 8, 8)
    assert select(z, None, batch=2, space=(8, 8)).shape == (2, 1, 8, 8)
    assert select((z,), 0, batch=2, space=(8, 8)).shape == (2, 1, 8, 8)


def test_tensors_are_listed_with_their_path():
    nest = {"a": [torch.zeros(1), (torch.ones(1), 3)], "b": Plain(torch.ones(2), torch.ones(3))}
    assert [path for path, _ in tensors(nest)] == [
        "['a'][0]",
        "['a'][1][0]",
        "['b']['aux']",
        "['b']['seg']",
    ]


def test_unchanged_parts_are_the_same_objects():
    nest = {"a": [torch.zeros(1)], "b": (torch.ones(1, requires_grad=True),), "c": object()}
    assert map_tensors(nest, lambda tensor: tensor) is nest
    changed = map_tensors(nest, lambda t: t.detach() if t.requires_grad else t)
    assert changed["a"] is nest["a"]
    assert changed["c"] is nest["c"]
    assert nest["b"][0].requires_grad  # the original is unchanged
    assert not changed["b"][0].requires_grad


def test_the_finest_head_where_none_has_the_size_of_the_input():
    fine, coarse = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 2, 2)
    for heads in ([fine, coarse], [coarse, fine], {"ds": (coarse, fine)}):
        assert select(heads, None, batch=2, space=(8, 8)) is fine
    assert select((coarse, torch.rand(2, 5, 4, 4)), None, batch=2, space=(8, 8)) is coarse
