"""Weights, buffers, modes, gradients, hooks and random numbers are the same bits afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import medcam
from medcam.trust import permuted


class Network(nn.Module):
    """Norms in training mode, dropout, a counter and a tensor with a graph: what could change."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5),
            nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(8, 3)
        self.calls = 0
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        self.last = self.features(x)
        return self.head(self.last.mean((2, 3)))


def state_of(model):
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [
        len(hooks) for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    ]  # fmt: skip
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    flags = [p.requires_grad for p in model.parameters()]
    return tensors, modes, hooks, grads, flags, model.calls, torch.get_rng_state()


def same(first, second):
    assert first[0].keys() == second[0].keys()
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    assert first[1:3] == second[1:3]
    for a, b in zip(first[3], second[3], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert first[4:6] == second[4:6]
    assert torch.equal(first[6], second[6])


@pytest.fixture
def model():
    network = Network()
    network(torch.rand(4, 1, 32, 32)).sum().backward()  # leaves gradients and a stored graph
    return network


@pytest.fixture
def images():
    return torch.rand(2, 1, 32, 32)


FEW = {"sets": 8, "networks": 2, "noises": 1, "layer": "stages"}


def test_nothing_changes(model, images):
    before, pointers = state_of(model), [p.data_ptr() for p in model.parameters()]
    with pytest.warns(medcam.MedcamWarning, match="training mode"):
        medcam.check(model, images, **FEW)
    same(before, state_of(model))
    assert pointers == [p.data_ptr() for p in model.parameters()]
    assert model.last.grad_fn is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("after", [0, 2, 9, 20])
def test_nothing_changes_if_the_check_ends_early(model, images, error, after):
    before = state_of(model)
    count = 0

    def progress(done, total):
        nonlocal count
        count += 1
        if count > after:
            raise error

    with pytest.warns(medcam.MedcamWarning, match="training mode"), pytest.raises(error):
        medcam.check(model, images, progress=progress, **FEW)
    same(before, state_of(model))


def test_the_weights_are_the_same_while_another_network_is_permuted(model, images):
    """Another thread that predicts with the model meanwhile gets its prediction."""
    model.eval()
    expected = model(images)
    for twin in permuted.permuted_networks(model, 2):
        assert torch.equal(model(images), expected)
        assert not torch.equal(twin(images), expected)


def test_weights_are_permuted_within_each_tensor(model):
    originals = [p.detach().clone() for p in model.parameters()]
    twins = [
        [p.detach().clone() for p in twin.parameters()]
        for twin in permuted.permuted_networks(model, 3, seed=5)
    ]
    for twin in twins:
        for own, other in zip(originals, twin, strict=True):
            assert torch.equal(own.flatten().sort().values, other.flatten().sort().values)
            assert own.numel() < 3 or own.unique().numel() < 2 or not torch.equal(own, other)
    assert not torch.equal(twins[0][0], twins[1][0])
    again = next(iter(permuted.permuted_networks(model, 1, seed=5)))
    assert all(torch.equal(a, b) for a, b in zip(twins[0], again.parameters(), strict=True))


def test_tied_weights_stay_tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    twin = next(iter(permuted.permuted_networks(model, 1)))
    assert twin[1].weight is twin[0].weight


def test_a_model_that_cannot_be_copied_is_an_error_with_a_remedy(images):
    class Uncopied(Network):
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle a lock")

    model = Uncopied().eval()
    with pytest.raises(medcam.errors.InputError, match=r"networks=0.*cannot pickle a lock"):
        medcam.check(model, images, **FEW)
    check = medcam.check(model, images, **{**FEW, "networks": 0})
    assert check.maps[0].verdicts["T2"].word == "undecided"


def test_an_injected_model_can_be_checked(tmp_path, images):
    plain = Network().eval()
    injected = medcam.inject(copy.deepcopy(plain), output_dir=tmp_path, save_maps=True)
    a, b = medcam.check(plain, images, **FEW), medcam.check(injected, images, **FEW)
    assert a.table().equals(b.table())
    assert not list(tmp_path.rglob("*.*"))
