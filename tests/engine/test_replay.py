"""Replays: what running the model again explains, what it leaves as it was, what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from monai.networks.nets import UNet as MonaiUNet
from torch import nn

import medcam
from medcam.errors import InputError, MedcamWarning, NoMapError
from medcam.methods import Method, ablationcam, intgrad, occlusion, rise, scorecam, smoothgrad
from medcam.targets import class_score
from support.detectors import CellDetector
from support.nets import Classifier, UNet, balanced, image

FAST = {
    "intgrad": intgrad(steps=4),
    "smoothgrad": smoothgrad(samples=3),
    "smoothgrad_gcam": smoothgrad("gcam", samples=3),
    "smoothgrad_ggcam": smoothgrad("ggcam", samples=3),
    "occlusion": occlusion(size=6),
    "rise": rise(masks=6),
    "scorecam": scorecam(channels=3),
    "ablationcam": ablationcam(channels=3),
}
pytestmark = [
    pytest.mark.usefixtures("unchecked_layer"),
    pytest.mark.filterwarnings("ignore:The Integrated Gradients map of sample"),
]


def net_of(seed=0, dims=2, channels=1):
    torch.manual_seed(seed)
    net = Classifier(dims, channels=channels).eval()
    net.head.weight.data.abs_()
    return net


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# ------------------------------------------------------------------------------ the fixed target


class Turning(nn.Module):
    """Predicts class 1 for the image as it is, and class 0 once anything is hidden."""

    def forward(self, x):
        z = x.flatten(1).sum(1)
        return torch.stack([torch.full_like(z, x[0].numel() - 0.5), z], 1)


def test_the_predicted_class_is_that_of_the_image_as_it_is():
    """The score of what is predicted for the hidden image would drop by half a voxel only."""
    found = medcam.explain(Turning(), torch.ones(2, 1, 4, 4), method=occlusion(size=2, fill="zero"))
    torch.testing.assert_close(found.map.values, torch.full((2, 1, 4, 4), 4.0))


def test_the_predicted_mask_is_that_of_the_image_as_it_is():
    class Threshold(nn.Module):
        def forward(self, x):
            return torch.cat([torch.full_like(x, 0.5), x], 1)

    x = torch.zeros(1, 1, 4, 4)
    x[..., :2] = 1  # predicted as class 1; hidden voxels would leave the mask, and the mean at 1
    found = medcam.explain(Threshold(), x, method=occlusion(size=1, fill="zero"), target=1).map
    torch.testing.assert_close(found.values, x / 8)


def test_a_function_of_the_output_is_called_itself():
    """The norm is homogeneous, so its gradient gives its value, but not its changes."""
    net, x = net_of().double(), image(size=6).double()
    found = medcam.explain(net, x, method=occlusion(size=2), target=lambda z: z.norm(dim=1)).map
    with torch.no_grad():
        hidden = x[1:].clone()
        hidden[..., :2, 2:4] = x[1].mean()
        drop = net(x[1:]).norm() - net(hidden).norm()
    torch.testing.assert_close(found.values[1, 0, 0, 2], drop)


@pytest.mark.parametrize("labels", [[0, 2, 1], [2, 2, 2]])
def test_a_function_that_treats_samples_differently(labels):
    net, x = net_of(), image(batch=3, size=8)
    wanted = torch.tensor(labels)

    def own_class(z):
        return z.gather(1, wanted[:, None])[:, 0]

    for method in (occlusion(size=4, batch=3), rise(masks=3, batch=3), intgrad(steps=3, batch=3)):
        found = medcam.explain(net, x, method=method, target=own_class).map.values
        expected = medcam.explain(net, x, method=method, target=labels).map.values
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_one_mask_that_a_function_picks_is_fixed():
    net, x = balanced(UNet(2), 2), image(size=8)
    chosen = net(x) > 0

    found = medcam.explain(net, x, method=occlusion(size=4), target=lambda z: z > 0).map.values
    expected = medcam.explain(
        net, x, method=occlusion(size=4),
        target=lambda z: torch.where(chosen, z, 0).flatten(1).sum(1) / chosen.flatten(1).sum(1),
    ).map.values  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["occlusion", "intgrad", "scorecam", "smoothgrad_gcam"])
def test_a_model_that_ends_in_a_softmax_is_explained_at_its_logits(method):
    net, x = net_of(), image(size=8)
    ask = {"method": FAST[method], "target": 1, "layer": "0.features"}
    ends = nn.Sequential(net, nn.Softmax(1))
    with pytest.warns(MedcamWarning, match="ends in a softmax"):
        found = medcam.explain(ends, x, **ask).map.values
    plain = medcam.explain(nn.Sequential(net, nn.Identity()), x, **ask).map.values
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-6)


# ------------------------------------------------------------------------------ what is left alone


class Stateful(nn.Module):
    """Counts its calls, keeps a running mean and its last features, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.net = net_of()
        self.register_buffer("mean", torch.zeros(()))
        self.calls, self.kept, self.last = 0, [], None

    def forward(self, x):
        self.calls += 1
        self.kept.append(self.calls)
        self.mean += x.detach().mean()
        self.last = self.net(x)
        torch.rand(3)
        return self.last


@pytest.mark.parametrize("method", FAST)
def test_the_model_and_the_random_numbers_are_as_after_one_call(method):
    model, single, x = Stateful().eval(), Stateful().eval(), image(size=8)
    torch.manual_seed(3)
    with torch.no_grad():
        single(x)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with torch.no_grad():
        medcam.explain(model, x, method=FAST[method], layer="net.features", target=1)
    assert torch.equal(torch.rand(4), expected)
    assert (model.calls, model.kept) == (single.calls, single.kept) == (1, [1])
    assert torch.equal(model.mean, single.mean)
    assert torch.equal(model.last, single.last)
    assert not model.last.requires_grad
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("method", FAST)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_a_later_run_leaves_nothing_behind(method, error):
    class Failing(Stateful):
        def forward(self, x):
            output = super().forward(x)
            if len(self.kept) > 1:  # a replay
                raise error("a later run")
            return output

    model, x = Failing().eval(), image(size=8)
    before, state = bits(model.net), torch.get_rng_state()
    with pytest.raises(error):
        medcam.explain(model, x, method=FAST[method], layer="net.features", target=1)
    assert (model.calls, model.kept) == (1, [1])
    assert all(torch.equal(value, bits(model.net)[name]) for name, value in before.items())
    torch.set_rng_state(state)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_training_goes_on_as_without_medcam():
    net, x = net_of(), image(size=8)
    model = medcam.inject(net, backend=occlusion(size=4), label=1)
    model(x).sum().backward()
    own = net_of()
    own(x).sum().backward()
    pairs = zip(net.parameters(), own.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)
    assert model.get_attention_map().any()


def test_results_repeat_and_do_not_depend_on_how_many_run_at_once():
    net, x = net_of().double(), image(size=8).double()
    for make in (smoothgrad, rise, intgrad):
        maps = [
            medcam.explain(net, x, method=make(batch=batch), target=1).map.values
            for batch in (None, 1, 5)
        ]
        for other in maps[1:]:
            torch.testing.assert_close(maps[0], other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FAST)
def test_no_more_images_than_asked_for_run_at_once(name):
    net, x, sizes = net_of(), image(size=8), []
    options = {
        "intgrad": intgrad(steps=5, batch=2), "smoothgrad": smoothgrad(samples=5, batch=2),
        "smoothgrad_gcam": smoothgrad("gcam", samples=5, batch=2),
        "smoothgrad_ggcam": smoothgrad("ggcam", samples=5, batch=2),
        "occlusion": occlusion(size=2, batch=2), "rise": rise(masks=5, batch=2),
        "scorecam": scorecam(batch=2), "ablationcam": ablationcam(batch=2),
    }  # fmt: skip
    net.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    medcam.explain(net, x, method=options[name], layer="features", target=1)
    assert max(sizes[1:]) == 2
    assert len(sizes) > 6


# --------------------------------------------------------------------------------- other options


@pytest.mark.parametrize("method", FAST)
def test_options_of_explain(method):
    net, x = net_of(dims=3).double(), image(3, size=8).double()
    ask = {"method": FAST[method], "layer": "features.4", "target": 1}
    plain = medcam.explain(net, x, **ask).map
    own = medcam.explain(net, x, shape=None, **ask).map
    small = (4, 4, 4) if FAST[method].of_layer and not FAST[method].of_input else (8, 8, 8)
    assert own.values.shape == (2, 1, *small)
    full = medcam.explain(net, x, **{**ask, "layer": "full"})
    key = "features.4" if FAST[method].of_layer else None
    torch.testing.assert_close(full.maps[key].values, plain.values, rtol=1e-9, atol=1e-12)
    model = medcam.inject(net, backend=FAST[method], layer="features.4", label=1)
    with torch.no_grad():
        model(x)
    torch.testing.assert_close(model.get_explanation().map.values, plain.values)


@pytest.mark.parametrize("method", ["intgrad", "smoothgrad", "smoothgrad_ggcam", "scorecam"])
def test_low_memory(method):
    torch.manual_seed(0)
    net = MonaiUNet(3, 1, 2, [8, 16, 32], [2, 2], num_res_units=2).eval()
    ask = {"method": FAST[method], "layer": "model.0", "target": class_score(1)}
    x = image(3, size=16)
    low = medcam.explain(net, x, memory="low", **ask).map.values
    torch.testing.assert_close(low, medcam.explain(net, x, **ask).map.values, rtol=0, atol=0)


class TwoImages(nn.Module):
    """Takes an image, another one, and the age of each patient."""

    def __init__(self):
        super().__init__()
        self.first, self.second = net_of(1), net_of(2)

    def forward(self, image, prior, age):
        return self.first(image) * age[:, None] + self.second(prior) / age[:, None]


@pytest.mark.parametrize("method", ["occlusion", "intgrad", "smoothgrad"])
def test_other_inputs_stay_those_of_the_sample(method):
    net, x, prior = TwoImages().eval().double(), image(size=8).double(), image(size=8).double()
    age = torch.tensor([2.0, 5.0]).double()
    ask = {"method": FAST[method], "target": 1}
    found = medcam.explain(net, x, prior, age=age, **ask)
    assert list(found.maps) == [(None, "image"), (None, "prior")]
    alone = medcam.explain(net.first, x, **ask).map.values * age[:, None, None, None]
    torch.testing.assert_close(found.maps[None, "image"].values, alone)
    chosen = medcam.explain(net, x, prior, age=age, image="prior", **ask).map.values
    torch.testing.assert_close(chosen, found.maps[None, "prior"].values)
    swapped = [value.flip(0) for value in (x, prior, age)]
    turned = medcam.explain(net, *swapped[:2], age=swapped[2], **ask)
    for key, item in turned.maps.items():
        torch.testing.assert_close(item.values.flip(0), found.maps[key].values)


def test_options_and_completeness_are_in_the_record(tmp_path):
    net, x = net_of(), image(batch=1, size=8)
    methods = [intgrad(steps=5, baseline=torch.zeros(1, 8, 8)), occlusion(size=(4, 2)), "gcam"]
    found = medcam.explain(net, x, method=methods, layer="features", target=1)
    assert found.details["method_options"]["occlusion"]["size"] == (4, 2)
    *_, path = found.save(tmp_path / "case", montage=False, report=False)
    record = json.loads(path.read_text())
    explained = record["extra"]["explained"]
    assert explained["method_options"] == {
        "intgrad": {"steps": 5, "baseline": "Tensor [1, 8, 8]", "batch": None},
        "occlusion": {"size": [4, 2], "stride": None, "spacing": None, "fill": "mean", "roi": None,
                      "batch": None},
    }  # fmt: skip
    assert explained["completeness_residual"] == found.details["completeness_residual"]
    assert record["windows"] is None


def test_occlusion_needs_no_gradient():
    class Rounded(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                z = (x[..., 2:4, 2:4].mean((1, 2, 3)) > 0.5).float()
            return torch.stack([1 - z, z], 1)

    x = torch.ones(1, 1, 8, 8)
    for method in (occlusion(size=2, fill="zero"), rise(masks=64)):
        values = medcam.explain(Rounded(), x, method=method, target=1).map.values[0, 0]
        assert values[2:4, 2:4].mean() > 3 * values[6:, 6:].abs().mean()
        assert values.amax() > 0


def test_a_method_of_your_own():
    """Sensitivity to each channel of the image: all targets at once."""

    def leave_out(inputs, score_of):
        hidden = inputs.repeat(inputs.shape[1], *[1] * (inputs.ndim - 1))
        for channel in range(inputs.shape[1]):
            hidden[channel, channel] = 0
        drops = (score_of(inputs) - score_of(hidden)).T
        return drops[(..., *[None] * (inputs.ndim - 2))] * torch.ones_like(inputs)

    net, x = net_of(channels=2).double(), image(size=8, channels=2).double()
    own = Method("channels", leave_out, "Channels", signed=True)
    found = medcam.explain(net, x, method=own, target="all").map.channels
    without = x.clone()
    without[:, 1] = 0
    drop = net(x) - net(without)
    torch.testing.assert_close(found[:, :, 1, 0, 0], drop.detach())


@pytest.mark.filterwarnings("ignore:The Expected Gradients map of sample")
@pytest.mark.parametrize(
    ("method", "count"),
    [
        (intgrad(steps=5, batch=2), 5), (smoothgrad("gcam", samples=3), 3),
        (occlusion(size=6), 4), (rise(masks=7, batch=3), 7), (scorecam(channels=3), 3),
        (ablationcam(channels=4), 4),
        (medcam.methods.expgrad(torch.zeros(2, 1, 12, 12), samples=6, batch=4), 6),
    ],
)  # fmt: skip
def test_progress_counts_the_changed_images_of_all_samples(method, count):
    seen = []
    medcam.explain(
        net_of(), image(batch=3), method=[method, "saliency"], layer="features", target=1,
        progress=lambda *of: seen.append(of),
    )  # fmt: skip
    assert {total for _, total in seen} == {3 * count}
    assert seen[-1] == (3 * count, 3 * count)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_progress_bar(capsys):
    medcam.explain(net_of(), image(), method=FAST["rise"], target=1, progress=True)
    assert "RISE" in capsys.readouterr().err
    with pytest.raises(medcam.errors.InputTypeError, match="progress=3"):
        medcam.explain(net_of(), image(), progress=3)


# ------------------------------------------------------------------------------- what is refused


def refused(error, words, *args, **ask):
    with pytest.raises(error, match=words):
        medcam.explain(*args, **ask)


@pytest.mark.parametrize("method", ["scorecam", "ablationcam"])
def test_changed_features_of_windows_are_refused(method):
    title = FAST[method].title
    with pytest.raises(InputError, match=rf"{title}: changed features .* medcam.explain"):
        medcam.explain_volume(UNet().eval(), image(size=16), 8, method=FAST[method])


@pytest.mark.parametrize("method", ["occlusion", "intgrad"])
def test_detections_are_refused(method):
    net = CellDetector().eval()
    refused(NoMapError, "finds other boxes", net, image(size=32), method=FAST[method])


def test_slices_of_one_case_are_refused():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net_of()

        def forward(self, x):
            return self.net(x).mean(0, keepdim=True)

    refused(NoMapError, "slices or views", Bag(), image(batch=3), method=FAST["occlusion"])


def test_a_model_that_writes_to_its_input_is_refused():
    class Writing(nn.Module):
        def forward(self, x):
            x *= 2
            return x.flatten(1)[:, :2]

    refused(NoMapError, "writes to its input", Writing(), image(), method=FAST["rise"])


def test_a_model_that_gives_each_call_another_score_is_refused():
    class Random(Classifier):
        def forward(self, x):
            return super().forward(x) * (1 + torch.rand(len(x), 1))

    x = image(batch=3)
    refused(
        NoMapError, "another score than in its batch", Random(), x, method=FAST["rise"], target=1
    )


@pytest.mark.parametrize("method", FAST)
def test_autocast(method):
    net, x = net_of(), image(batch=3, size=8)
    ask = {"method": FAST[method], "layer": "features", "target": 1}
    with torch.autocast("cpu", torch.bfloat16):
        found = medcam.explain(net, x, **ask).map.values
    wide = medcam.explain(net, x, **ask).map.values
    assert found.dtype == torch.float32
    assert (found - wide).norm() < (2 if method in ("occlusion", "rise") else 0.2) * wide.norm()


def test_training_mode_that_mixes_samples_is_told():
    net = nn.Sequential(nn.BatchNorm2d(1), net_of())
    with pytest.warns(MedcamWarning) as said:
        medcam.explain(net.train(), image(), method=FAST["occlusion"], target=1)
    assert any("another score than in its batch" in str(item.message) for item in said)


def test_a_model_that_takes_its_image_from_elsewhere_is_refused():
    class Elsewhere(nn.Module):
        def __init__(self, x):
            super().__init__()
            self.net, self.x = net_of(), x

        def forward(self, x):
            return self.net(self.x)

    x = image(batch=1)
    refused(NoMapError, "takes it from where", Elsewhere(x), x, method=FAST["intgrad"], target=1)


def test_an_unknown_axis_of_channels_is_refused():
    class Twice(Classifier):
        def forward(self, x):
            return super().forward(x) + super().forward(x.flip(-1))

    ask = {"method": FAST["ablationcam"], "layer": "features.4", "target": 1}
    refused(NoMapError, "ran several times", Twice().eval(), image(), **ask)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: smoothgrad("auto"), "name the method"),
        (lambda: medcam.methods.expgrad(torch.zeros(3)), r"expgrad\(references\)"),
        (lambda: medcam.methods.get("expgrad"), "images of other patients"),
        (lambda: Method("m", lambda inputs, gradients, score_of: 0, "M"), "input_gradient_at"),
        (lambda: Method("m", lambda score_of: 0, "M"), "neither inputs nor activations"),
    ],
)
def test_methods_that_cannot_be_made(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (intgrad(steps=0), "steps=0"),
        (smoothgrad(noise=-1), "noise=-1"),
        (smoothgrad(samples=1.5), "samples=1.5"),
        (rise(keep=1), "keep=1"),
        (rise(masks=True), "masks=True"),
        (scorecam(channels=0), "channels=0"),
        (medcam.methods.expgrad(torch.rand(3, 1, 5, 5)), r"\[references, 1, 12, 12\]"),
    ],
)
def test_options_that_do_not_fit(method, words):
    refused(InputError, words, net_of(), image(), method=method, layer="features", target=1)
