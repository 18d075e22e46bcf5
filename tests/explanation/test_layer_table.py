"""The table of a model's layers agrees with what `explain` does for each layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import medcam
from medcam.errors import InputError, NoMapError
from medcam.explanation.layer_table import overview
from support.nets import Classifier, UNet, image

pytestmark = pytest.mark.usefixtures("unchecked_layer")


@pytest.mark.parametrize("make", [Classifier, UNet])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_map_can_be_made_of_mappable_layers_only(make, dims):
    net, x = make(dims).eval(), image(dims, batch=1)
    table = overview(net, x)
    assert [row.name for row in table.rows] == [name for name, _ in net.named_modules() if name]
    target = medcam.targets.class_score(0)
    for row in table.rows:
        if row.mappable:
            made = medcam.explain(net, x, layer=row.name, target=target, shape=None)
            assert made.map.values.shape[2:] == row.space
            assert row.reason is None
        else:
            with pytest.raises(NoMapError) as error:
                medcam.explain(net, x, layer=row.name, target=target)
            assert row.reason in str(error.value)
    assert {row.mappable for row in table.rows} == ({True, False} if make is Classifier else {True})


@pytest.mark.parametrize("make", [Classifier, UNet])
def test_the_automatic_layer_is_that_of_explain(make):
    net, x = make().eval(), image(batch=1)
    table = overview(net, x)
    taken = medcam.explain(net, x, target=medcam.targets.class_score(0)).layer
    assert table.automatic == taken
    assert [row.name for row in table.rows if row.automatic] == [taken]
    assert table.why_not is None


def test_shapes_and_parameters():
    net = Classifier(classes=3).eval()
    rows = {row.name: row for row in overview(net, image(batch=2)).rows}
    first = rows["features.0"]
    assert (first.kind, first.channels, first.space) == ("Conv2d", 6, (12, 12))
    assert first.parameters == 6 * 9 + 6
    assert first.output == "a tensor of shape [2, 6, 12, 12]"
    assert rows["features.2"].space == (6, 6)
    assert rows["features"].parameters == 6 * 9 + 6 + 6 * 8 * 9 + 8
    assert (rows["head"].channels, rows["head"].space) == (None, None)
    assert rows["head"].output == "a tensor of shape [2, 3]"
    assert overview(net).parameters == sum(p.numel() for p in net.parameters())


class Branches(nn.Module):
    """Model with a used, a detached and an idle layer."""

    def __init__(self):
        super().__init__()
        self.used = nn.Conv2d(1, 4, 3)
        self.detached = nn.Conv2d(1, 4, 3)
        self.idle = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        silent = self.detached(x).detach().mean()
        return self.head(self.used(x).flatten(2).mean(2)) + silent


def test_the_reasons():
    rows = {row.name: row for row in overview(Branches(), image(batch=1)).rows}
    assert rows["used"].mappable
    assert rows["detached"].reason == "the target does not depend on it"
    assert rows["detached"].space == (10, 10)
    assert rows["idle"].reason == "it did not run in this call"
    assert rows["idle"].output is None
    assert "does not lie on the input" in rows["head"].reason


def test_only_layers_before_the_explained_output_are_mappable():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x):
            return {"out": self.a(x), "aux": self.b(x)}

    table = overview(Two(), image(batch=1))
    assert [row.reason for row in table.rows] == [None, "the target does not depend on it"]
    assert table.automatic == "a"
    blind = overview(Two(), image(batch=1), target=lambda logits: torch.zeros(1))
    assert [row.mappable for row in blind.rows] == [False, False]
    assert "does not depend on any layer" in blind.rows[0].reason
    assert "does not depend on any layer" in blind.why_not


def test_a_softmax_hides_no_layer():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                        nn.Linear(4, 3), nn.Softmax(1))  # fmt: skip
    with pytest.warns(medcam.errors.MedcamWarning, match="softmax"):
        table = overview(net, image(batch=1))
    assert table.rows[0].mappable
    assert table.automatic == "0"


def test_a_model_without_any_such_layer():
    table = overview(nn.Sequential(nn.Flatten(), nn.Linear(144, 2)), image(batch=1))
    assert table.automatic is None
    assert "No layer was found automatically" in table.why_not
    assert all(row.mappable is False and row.reason for row in table.rows)
    assert table.rows[1].output == "a tensor of shape [1, 2]"


def test_without_an_input_the_model_does_not_run():
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 3)

    table = overview(Silent())
    assert [(row.name, row.parameters, row.mappable, row.reason) for row in table.rows] == [
        ("layer", 9, None, None)
    ]


def test_the_model_is_left_as_it_was():
    net = UNet().eval()
    before = copy.deepcopy(net.state_dict())
    hooks = [len(module._forward_hooks) for module in net.modules()]
    overview(net, image(batch=1))
    assert [len(module._forward_hooks) for module in net.modules()] == hooks
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())

    class Failing(UNet):
        def forward(self, x):
            super().forward(x)
            raise RuntimeError("later")

    net = Failing()
    with pytest.raises(RuntimeError, match="later"):
        overview(net, image(batch=1))
    assert not any(module._forward_hooks for module in net.modules())


def test_inputs_that_do_not_fit():
    with pytest.raises(InputError, match="spatial axes"):
        overview(UNet(), torch.rand(2, 3))


def test_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, x, scale):
            return self.conv(x).mean((2, 3)) * scale

    assert overview(Two(), image(batch=1), torch.tensor(2.0)).rows[0].mappable
