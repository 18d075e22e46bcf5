"""Maps of many layers are made during the backward pass: one gradient is alive at a time."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

import medcam
from medcam.engine.capture import Activation, Recorder, copy_for_model
from medcam.engine.gradients import stream_gradients
from medcam.errors import NoMapError
from medcam.methods import Method
from medcam.methods.grad_cam import grad_cam
from medcam.targets import class_score
from support.nets import Classifier, UNet, image

FREE = ["gcam", "gcampp", "hirescam", "layercam", "xgradcam", "segxrescam", "eigencam"]


def watched(monkeypatch, net: nn.Module, x: Tensor) -> tuple[list[int], medcam.Explanation]:
    """Return the number of gradients alive at each map of "full", and the maps."""
    alive: set[int] = set()
    counts: list[int] = []

    def spied(score, tensors, use, **options):
        def watching(index: int, gradient: Tensor) -> None:
            alive.add(id(gradient))
            weakref.finalize(gradient, alive.discard, id(gradient))
            counts.append(len(alive))
            use(index, gradient)

        stream_gradients(score, tensors, watching, **options)

    monkeypatch.setattr("medcam.engine.gather.stream_gradients", spied)
    return counts, medcam.explain(net, x, target=class_score(1), layer="full")


@pytest.mark.parametrize("net", [Classifier, UNet])
def test_one_gradient_at_a_time(net, monkeypatch):
    counts, found = watched(monkeypatch, net().eval(), image())
    assert len(counts) >= 4
    assert max(counts) <= 2  # the new one, and the one that autograd has just used
    assert set(found.layer) == set(found.maps)


def test_a_sequence_shares_the_map_of_its_last_part():
    net, x = Classifier().eval(), image()
    found = medcam.explain(net, x, layer="full", target=1)
    assert {"features", "features.4"} < set(found.maps)
    assert torch.equal(found.maps["features"].values, found.maps["features.4"].values)
    copies: list[Tensor] = []
    net.features[4].register_forward_hook(lambda m, a, out: copies.append(out))
    net.features.register_forward_hook(lambda m, a, out: copies.append(out))
    medcam.explain(net, x, layer="full")
    assert copies[0] is copies[1]  # one copy for both


@pytest.mark.parametrize("inplace", [False, True])
def test_copy_on_write(inplace, monkeypatch):
    pairs: list[tuple[Tensor, Tensor]] = []

    def spied(stored: Tensor) -> Tensor:
        given = copy_for_model(stored)
        pairs.append((stored, given))
        return given

    monkeypatch.setattr("medcam.engine.capture.copy_for_model", spied)
    net = UNet(3, inplace=inplace).eval()  # PyTorch's slow Conv2d takes a copy, too
    found = medcam.explain(net, image(3), target=class_score(1), layer="full")
    address = torch._C._data_address
    copied = [address(stored) != address(given) for stored, given in pairs]
    assert len(copied) == len(found.maps) - 3  # a sequence and its last part share theirs
    assert sum(copied) == (3 if inplace else 0)  # the three convolutions before a rectifier


@pytest.mark.parametrize("layer", ["0", "full"])
def test_memory_that_is_not_pytorchs_is_copied_at_once(layer):
    array = image(batch=1).numpy()
    x = torch.from_numpy(array)
    net = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True), Classifier()).eval()
    before = array.copy()
    medcam.explain(net, x, layer=layer)
    array[...] = 3
    assert (x == 3).all()  # they still share memory
    x[...] = torch.from_numpy(before)
    assert (array == before).all()


def test_a_module_that_changes_the_output_of_its_last_child_has_its_own_map():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mul_(torch.tensor([1.0, -2.0, 5.0])[:, None, None])

    net = nn.Sequential(Block(), nn.Flatten(), nn.LazyLinear(2))
    x = image(size=6)
    net(x)
    full = medcam.explain(net, x, layer="full", method="hirescam", target=1)
    for layer in ("0", "0.conv"):
        alone = medcam.explain(net, x, layer=layer, method="hirescam", target=1)
        assert torch.equal(full.maps[layer].values, alone.map.values)
    full = medcam.explain(net, x, layer="full", method="gcam", target=1)
    assert not torch.equal(full.maps["0"].values, full.maps["0.conv"].values)


@pytest.mark.parametrize("target", ["all", class_score(1)])
@pytest.mark.filterwarnings("ignore:A requested class is nowhere predicted")
def test_streamed_maps_equal_maps_of_kept_gradients(target, monkeypatch):
    net, x = UNet().eval(), image()
    ask = {"layer": "full", "method": FREE, "target": target, "shape": None}
    passing = medcam.explain(net, x, **ask)
    monkeypatch.setattr("medcam.engine.gather.can_stream", lambda *_: False)
    kept = medcam.explain(net, x, **ask)
    assert passing.maps.keys() == kept.maps.keys()
    assert len(kept.maps) >= 5 * len(FREE)
    for key, item in kept.maps.items():
        assert torch.equal(passing.maps[key].values, item.values)
    assert passing.skipped == kept.skipped


def test_a_graph_with_a_leaf_of_the_model_is_not_streamed():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            leaf = torch.ones_like(x).requires_grad_()  # not an output of a layer
            return self.first(x).mean((2, 3)) + self.second(x * leaf).square().mean((2, 3))

    net, x = Net().eval(), image()
    found = medcam.explain(net, x, layer="full", method="hirescam", target=1)
    assert list(found.maps) == ["first", "second"]
    for layer in found.maps:
        alone = medcam.explain(net, x, layer=layer, method="hirescam", target=1)
        assert torch.equal(found.maps[layer].values, alone.map.values)
        assert alone.map.values.any()


def test_an_error_of_a_method_is_raised_unchanged():
    def broken(activations: Tensor, gradients: Tensor) -> Tensor:
        raise RuntimeError("too few channels")

    method = Method("broken", broken, "Broken")
    with pytest.raises(RuntimeError, match=r"^too few channels$") as raised:
        medcam.explain(Classifier().eval(), image(), layer="full", method=method)
    assert not isinstance(raised.value, NoMapError)


def test_activations_are_released_after_their_last_map(monkeypatch):
    found: list[Activation] = []
    chosen = Recorder.activations

    def spied(self: Recorder, scores: Tensor) -> list[Activation]:
        found.extend(chosen(self, scores))
        return found

    monkeypatch.setattr(Recorder, "activations", spied)
    held: list[list[int]] = []

    def function(activations: Tensor, gradients: Tensor) -> Tensor:
        held.append([activation.stored.numel() for activation in found])
        return grad_cam(activations, gradients)

    method = Method("watched", function, "Watched")
    medcam.explain(Classifier().eval(), image(), method=method, target="all", layer="full")
    before_last = len(held) * 2 // 3
    assert all(all(row) for row in held[:before_last])  # the third class needs them, too
    assert sum(map(bool, held[-1])) <= 2


class Shortcut(nn.Module):
    """A shortcut: the input of `same` is also used by `body`."""

    def __init__(self, same: nn.Module) -> None:
        super().__init__()
        self.stem, self.same = nn.Conv2d(1, 4, 3, padding=1), same
        self.body, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head((self.same(y) + self.body(y)).relu().mean((2, 3)))


class Aux(nn.Module):
    """A block that returns its child's output and an auxiliary output computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.aux = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.part(x)
        return y, self.aux(y)


class WithAux(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Aux(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, aux = self.block(x)
        return self.head((y + aux.sin()).mean((2, 3)))


@pytest.mark.parametrize(
    "make",
    [lambda: Shortcut(nn.Identity()), lambda: Shortcut(nn.Dropout()), WithAux, Classifier, UNet],
)
@pytest.mark.parametrize("method", ["hirescam", "gcam"])
def test_a_layers_map_does_not_depend_on_other_layers_and_methods(make, method):
    net, x = make().eval(), image()
    ask = {"target": class_score(1), "shape": None}
    full = medcam.explain(net, x, layer="full", method=method, **ask)
    beside = medcam.explain(net, x, layer="full", method=[method, "saliency"], **ask)
    for layer, item in full.maps.items():
        alone = medcam.explain(net, x, layer=layer, method=method, **ask).map.values
        assert torch.equal(item.values, alone), layer
        assert torch.equal(beside.maps[method, layer].values, alone), layer
    assert any(item.values.any() for item in full.maps.values())


def test_a_part_of_an_output_that_is_not_used():
    class Half(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.chunk(2, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.split, self.head = nn.Conv2d(1, 8, 3), Half(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.split(self.conv(x))[1].mean((2, 3)))

    found = medcam.explain(Net().eval(), image(), layer="full", target=1)
    assert list(found.maps) == ["conv"]
    assert found.skipped["split"] == "the target does not depend on it"


def test_a_custom_function_without_a_gradient():
    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, grad: Tensor) -> None:
            return None

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return (Nothing.apply(self.a(x)) + self.b(x)).mean((2, 3))

    found = medcam.explain(Net().eval(), image(), layer="full", target=1)
    assert list(found.maps) == ["b"]
    assert found.skipped == {"a": "the target does not depend on it"}
