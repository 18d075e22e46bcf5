"""The user's model is never changed: its outputs and state are the same as without medcam."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import medcam
from support.nets import Classifier, UNet, image

pytestmark = pytest.mark.usefixtures("unchecked_layer")

BACKENDS = ["gcam", "gcampp", "gbp", "ggcam", "eigencam"]
WHOLE = medcam.targets.class_score(1)
NETS = [
    pytest.param(lambda dims: Classifier(dims), id="classifier"),
    pytest.param(lambda dims: Classifier(dims, inplace=True), id="classifier in place"),
    pytest.param(lambda dims: UNet(dims), id="unet"),
    pytest.param(lambda dims: UNet(dims, inplace=True), id="unet in place"),
]


def fingerprint(model: nn.Module) -> dict[str, object]:
    """Return the state of a model that a call could change."""
    return {
        "flags": [module.training for module in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "keys": [sorted(set(vars(module)) - {"_medcam"}) for module in model.modules()],
        "rng": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "cudnn": torch.backends.cudnn.enabled,
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("build", NETS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:.*foreground:medcam.errors.MedcamWarning")
def test_a_call_changes_nothing_but_makes_a_map(backend, build, dims, grad):
    net, x = build(dims).eval(), image(dims)
    for index, parameter in enumerate(net.parameters()):
        parameter.grad = torch.full_like(parameter, float(index))
    with torch.no_grad():
        expected = net(x)
    model = medcam.inject(net, backend=backend, layer="auto", normalize=False, cudnn=False)
    before, x_before = fingerprint(net), x.clone()
    with torch.set_grad_enabled(grad):
        output = model(x)
    assert same(fingerprint(net), before)
    assert torch.equal(output, expected)
    assert output.requires_grad is grad
    assert torch.equal(x, x_before)
    assert not x.requires_grad
    assert x.grad is None
    assert model.get_attention_map().any()


class Failing(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        self.features(x)
        raise ArithmeticError("in mid-forward")


@pytest.mark.parametrize("layer", ["auto", "full", "features"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exception_in_mid_forward_leaves_nothing_behind(backend, layer):
    net, x = Failing().eval(), image()
    model = medcam.inject(net, backend=backend, layer=layer, cudnn=False)
    before = fingerprint(net)
    with torch.no_grad(), pytest.raises(ArithmeticError):
        model(x)
    assert same(fingerprint(net), before)
    with torch.inference_mode(), pytest.raises(ArithmeticError):
        model(x)
    assert same(fingerprint(net), before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:.*foreground:medcam.errors.MedcamWarning")
def test_training_gives_the_same_gradients_as_without_medcam(backend):
    net, x = UNet(inplace=True), image().requires_grad_()
    net(x).square().sum().backward()
    expected = [p.grad.clone() for p in net.parameters()]
    expected_x = x.grad.clone()
    net.zero_grad()
    x.grad = None
    model = medcam.inject(net, backend=backend, layer="bottleneck")
    loss = model(x).square().sum()
    assert all(p.grad is None for p in net.parameters())
    loss.backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(net.parameters(), expected, strict=True))
    assert torch.equal(x.grad, expected_x)


@pytest.mark.parametrize("layer", ["auto", "down", "bottleneck", "full"])
@pytest.mark.filterwarnings("ignore:.*foreground:medcam.errors.MedcamWarning")
def test_every_grad_mode_gives_the_same_map(layer):
    net, x = UNet(inplace=True).eval(), image()
    model = medcam.inject(net, layer=layer, normalize=False)

    def maps() -> dict[str, object]:
        found = model.get_attention_map()
        return found if isinstance(found, dict) else {layer: found}

    model(x)
    expected = maps()
    with torch.no_grad():
        model(x)
    assert all((maps()[name] == expected[name]).all() for name in expected)
    with torch.inference_mode():
        output = model(x.clone())
    assert not output.requires_grad
    assert all((maps()[name] == expected[name]).all() for name in expected)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    model(x)
    assert all((maps()[name] == expected[name]).all() for name in expected)


def test_parameters_made_in_inference_mode_are_worked_around_and_left():
    net = Classifier(inplace=True).eval()
    expected = medcam.explain(net, image(), layer="features").map.values
    with torch.inference_mode():
        made = copy.deepcopy(net)
        made.load_state_dict(net.state_dict())
        for module in made.modules():
            for name, parameter in module._parameters.items():
                module._parameters[name] = nn.Parameter(parameter.clone(), requires_grad=False)
    assert next(made.parameters()).is_inference()
    before = [id(p) for p in made.parameters()]
    torch.manual_seed(0)
    with torch.inference_mode():
        model = medcam.inject(made, layer="features", normalize=False, return_attention=True)
        _, attention = model(image())
    torch.manual_seed(0)
    torch.testing.assert_close(
        attention, medcam.explain(net, image(), layer="features").map.values, rtol=0, atol=0
    )
    assert [id(p) for p in made.parameters()] == before
    assert expected.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_a_float32_map_close_to_the_full_one(dtype):
    net, x = UNet().eval(), image(size=16)
    full = medcam.explain(net, x, layer="bottleneck", target=WHOLE, method="hirescam").map.values
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        expected = net(x)
        explanation = medcam.explain(net, x, layer="bottleneck", target=WHOLE, method="hirescam")
    half = explanation.map.values
    assert torch.equal(explanation.output, expected)
    assert half.dtype == torch.float32
    both = torch.stack([half.flatten(), full.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.98


def test_small_gradients_survive_float16():
    net, x = UNet(3).eval().half(), image(3, batch=1, size=16).half()
    half = medcam.explain(net, x, target=WHOLE, method="saliency").map.values
    full = medcam.explain(net.float(), x.float(), target=WHOLE, method="saliency").map.values
    assert full.max() < 1e-3  # a mean over 4096 voxels: near float16's smallest numbers
    close = (half - full).abs() <= 0.05 * full + 0.01 * full.max()
    assert close.float().mean() > 0.95  # the rest: another voxel wins a pooling window


class Shared(nn.Module):
    """One convolution, run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.first(x)).relu_()
        x = self.twice(x).relu_()
        return self.head(x.mean((2, 3)))


@pytest.mark.filterwarnings("ignore:Layer 'twice' ran several times on the same image")
@pytest.mark.parametrize("grad", [True, False])
def test_a_module_called_twice_gives_the_map_of_its_last_call(grad):
    net, x = Shared().eval(), image()
    once = copy.deepcopy(net)
    once.second = copy.deepcopy(net.twice)
    once.forward = lambda v: once.head(
        once.second(once.twice(once.first(v)).relu_()).relu_().mean((2, 3))
    )
    expected = medcam.explain(once, x, layer="second").map.values
    model = medcam.inject(net, layer="twice", normalize=False, return_attention=True)
    with torch.set_grad_enabled(grad):
        _, attention = model(x)
    torch.testing.assert_close(attention, expected, rtol=0, atol=0)


class Checkpointed(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.features, x, use_reentrant=False)
        return self.head(x.flatten(2).mean(2))


@pytest.mark.parametrize("backend", ["gcam", "ggcam"])
@pytest.mark.parametrize("layer", ["features", "features.3", "features.0"])
def test_activation_checkpointing_gives_the_same_map(layer, backend):
    net, x = Checkpointed().eval(), image()
    plain = Classifier().eval()
    plain.load_state_dict(net.state_dict())
    expected = medcam.explain(plain, x, layer=layer, method=backend)
    found = medcam.explain(net, x, layer=layer, method=backend)
    assert torch.equal(found.output, expected.output)
    torch.testing.assert_close(found.map.values, expected.map.values, rtol=0, atol=0)


def test_disabled_is_a_plain_forward():
    net, x = Classifier(), image()
    model = medcam.inject(net, enabled=False, layer="features.3")
    calls = []
    handle = net.features[3].register_forward_hook(lambda *_: calls.append(1))
    output = model(x, mask=torch.ones(2, 1, 12, 12))
    handle.remove()
    assert torch.equal(output, net(x))
    assert len(calls) == 1
    assert model.get_attention_map() is None
    output.sum().backward()
    assert net.head.weight.grad is not None


def test_one_forward_for_each_call():
    net, x = UNet(3).eval(), image(3, batch=1)
    calls = []
    net.bottleneck[0].register_forward_hook(lambda *_: calls.append(1))
    model = medcam.inject(net, backend="ggcam", label=WHOLE)
    for _ in range(3):
        with torch.no_grad():
            model(x)
    assert len(calls) == 3


# ------------------------------------------------------------- what the injected model is


def test_the_injected_model_is_still_the_same_kind_of_model():
    net = UNet()
    model = medcam.inject(net)
    assert isinstance(model, UNet)
    assert type(model).__name__ == "UNet"
    assert repr(model) == repr(net)
    assert list(model.state_dict()) == list(net.state_dict())
    assert all(a is b for a, b in zip(model.parameters(), net.parameters(), strict=True))
    assert [n for n, _ in model.named_modules()] == [n for n, _ in net.named_modules()]
    assert set(vars(model)) - set(vars(net)) == {"_medcam"}
    assert type(net) is UNet
    assert type(medcam.eject(model)) is UNet
    assert "_medcam" not in vars(medcam.eject(model))
    assert medcam.eject(net) is net


def _saved(model: nn.Module) -> nn.Module:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize(
    "remake",
    [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), _saved],
    ids=["copy", "deepcopy", "pickle", "torch.save"],
)
def test_copies_and_pickles_go_on_making_maps(remake):
    net, x = Classifier().eval(), image()
    model = medcam.inject(net, layer="features.3", return_attention=True, normalize=False)
    output, attention = model(x)
    twin = remake(model)
    twin_output, twin_attention = twin(x)
    assert isinstance(twin, Classifier)
    assert torch.equal(twin_output, output)
    assert torch.equal(twin_attention, attention)


def test_injecting_again_reconfigures():
    net, x = Classifier().eval(), image()
    model = medcam.inject(medcam.inject(net, layer="features.0"), layer="features.3", backend="gbp")
    assert type(model).__mro__.count(Classifier) == 1
    assert type(medcam.eject(model)) is Classifier
    model(x)
    assert (model.get_attention_map() < 0).any()


def test_moving_after_injecting_moves_the_maps():
    model = medcam.inject(Classifier().eval(), layer="features", return_attention=True).double()
    output, attention = model(image().double())
    assert output.dtype == attention.dtype == torch.float64


def test_a_model_that_has_a_method_dump_keeps_it(caplog):
    class Own(Classifier):
        def dump(self) -> str:
            return "mine"

        def forward(self, x: Tensor) -> Tensor:
            assert self.dump() == "mine"
            return super().forward(x)

    model = medcam.inject(Own().eval())
    assert model.dump() == "mine"
    model(image())
    assert "dump" in caplog.text


def test_a_model_whose_forward_takes_a_mask_gets_it(tmp_path):
    class Masked(Classifier):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return super().forward(x * mask)

    net, x = Masked().eval(), image()
    ones, truth = torch.ones_like(x), torch.zeros_like(x)
    truth[..., :4] = 1
    model = medcam.inject(net, evaluate=True, output_dir=tmp_path, return_score=True)
    for call in (
        lambda: model(x, ones, medcam_mask=truth),
        lambda: model(x, mask=ones, medcam_mask=truth),
    ):
        output, scores = call()
        assert torch.equal(output, net(x, ones))
        assert len(next(iter(scores.values()))) == 2


def test_several_inputs_and_keywords_reach_the_model():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = Classifier(), Classifier()

        def forward(self, a: Tensor, b: Tensor, *, scale: float = 1.0) -> Tensor:
            return self.left(a) + scale * self.right(b)

    net, a, b = Two().eval(), image(), image()
    model = medcam.inject(net, layer=["left.features", "right.features"])
    assert torch.equal(model(a, b, scale=2.0), net(a, b, scale=2.0))
    assert set(model.get_attention_map()) == {"left.features", "right.features"}
    found = medcam.explain(net, a, b, layer="right.features", scale=3.0)
    assert torch.equal(found.output, net(a, b, scale=3.0))
    assert torch.equal(medcam.explain(net, (a, b), layer="right.features").output, net(a, b))


def test_nothing_grows_over_many_calls():
    import gc

    net, x = Classifier().eval(), image()
    model = medcam.inject(net)

    def alive() -> int:
        gc.collect()
        return sum(type(thing) in (Tensor, nn.Parameter) for thing in gc.get_objects())

    with torch.no_grad():
        for _ in range(3):
            model(x)
        before = alive()
        for _ in range(50):
            model(x)
        assert alive() == before
