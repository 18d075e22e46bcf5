"""AttentionInferer returns MONAI's own prediction, and maps that MONAI's own stitching explains."""

from __future__ import annotations

import copy
import functools
import pydoc

import monai.networks.nets as nets
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import (
    PatchInferer,
    SaliencyInferer,
    SimpleInferer,
    SliceInferer,
    SlidingWindowInferer,
    SlidingWindowInfererAdapt,
)
from torch import nn

import medcam
from medcam.errors import InputError, InputTypeError, MedcamWarning
from support.nets import Classifier
from support.stitched import net

ONE = medcam.targets.class_score(1)
AFFINE = torch.tensor([[0.0, -2, 0, 7], [3, 0, 0, 1], [0, 0, 5, 9], [0, 0, 0, 1]]).double()
AttentionInferer = medcam.monai.AttentionInferer

SLIDING = {  # inferer, the volume's shape
    "windows": (lambda: SlidingWindowInferer((6, 6, 4)), (11, 9, 6)),
    "gaussian": (lambda: SlidingWindowInferer(6, 3, 0.5, "gaussian", 0.2), (11, 9, 6)),
    "per axis": (
        lambda: SlidingWindowInferer(
            (6, 6, 4), 2, (0.5, 0, 0.25), "gaussian", (0.1, 0.2, 0.3), cache_roi_weight_map=True
        ),
        (11, 9, 6),
    ),
    "reflected": (lambda: SlidingWindowInferer((6, 12, 4), padding_mode="reflect"), (11, 9, 6)),
    "filled": (lambda: SlidingWindowInferer((6, 12, 4), cval=3.0), (11, 9, 6)),
    "whole axes": (lambda: SlidingWindowInferer((6, -1, None)), (11, 9, 6)),
    "adaptive": (lambda: SlidingWindowInfererAdapt((6, 6, 4)), (11, 9, 6)),
    "buffered": (lambda: SlidingWindowInferer((6, 6, 4), 2, buffer_steps=1), (11, 9, 6)),
    "slices 0": (lambda: SliceInferer(0, (6, 4)), (5, 11, 6)),
    "slices 1": (
        lambda: SliceInferer(1, (6, 4), 3, (0.5, 0, 0.25), "gaussian", (0.1, 0.2, 0.3)),
        (11, 5, 6),
    ),
    "slices 2": (lambda: SliceInferer(2, (6, -1), overlap=0.5), (11, 6, 5)),
}


def case(name):
    make, space = SLIDING[name]
    dims = 2 if name.startswith("slices") else 3
    x = MetaTensor(torch.rand(2, 2, *space, dtype=torch.float64), affine=AFFINE)
    return make, net(dims, channels=2), x


def same(found, expected):
    """Assert equal values bit for bit, affines and applied operations."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, (tuple, list)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
        return
    assert torch.equal(found, expected)
    if isinstance(expected, MetaTensor):
        assert torch.equal(found.affine, expected.affine)
        assert found.applied_operations == expected.applied_operations


@pytest.mark.parametrize("name", SLIDING)
def test_the_prediction_is_the_wrapped_inferers(name):
    make, model, x = case(name)
    inferer = AttentionInferer(make(), layer="fine", target=ONE)
    with torch.no_grad():
        for _ in range(2):  # SliceInferer changes its own roi_size at the first call
            same(inferer(x, model), make()(x, model))
    same(inferer.explanation.output, make()(x, model).detach())


@pytest.mark.parametrize("name", SLIDING)
def test_input_gradients_are_those_through_monais_own_inferer(name):
    make, model, x = case(name)
    inferer = AttentionInferer(make(), method="saliency", target=ONE)
    with torch.no_grad():
        inferer(x, model)
    leaf = x.as_tensor().clone().requires_grad_()
    score = make()(leaf, model)[:, 1].flatten(1).mean(1).sum()
    (expected,) = torch.autograd.grad(score, leaf)
    assert expected.any()
    torch.testing.assert_close(inferer.explanation.map.channels[:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SLIDING)
def test_the_network_runs_once_for_the_prediction_and_once_for_windows_with_the_target(name):
    make, model, x = case(name)
    rows = []
    model.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    with torch.no_grad():
        make()(x, model)
        plain = sum(rows)
        rows.clear()
        inferer = AttentionInferer(make(), layer="fine", target=ONE)
        inferer(x, model)
    assert sum(rows) == plain + inferer.explanation.details["windows_explained"]


def test_one_window_over_everything_is_explain():
    model, x = net(3, 1), torch.rand(1, 1, 8, 8, 8, dtype=torch.float64)
    inferer = AttentionInferer(SlidingWindowInferer(8), layer="fine", target=1)
    inferer(x, model)
    expected = medcam.explain(model, x, layer="fine", target=1).map.values
    assert expected.any()
    torch.testing.assert_close(inferer.attention, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grad", [True, False])
def test_the_simple_inferer_is_explain_in_one_forward_pass(grad):
    model, x = Classifier().double().eval(), MetaTensor(torch.rand(3, 1, 12, 12).double())
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    inferer = AttentionInferer(layer="features.3", label=1)
    with torch.set_grad_enabled(grad):
        prediction = inferer(x, model)
        assert len(runs) == 1
        same(prediction, SimpleInferer()(x, model))
    assert prediction.requires_grad == grad
    expected = medcam.explain(model, x, layer="features.3", target=1)
    assert expected.map.values.any()
    assert torch.equal(inferer.attention.as_tensor(), expected.map.values)
    assert not inferer.attention.requires_grad
    assert not inferer.explanation.output.requires_grad


def test_the_simple_inferer_keeps_the_graph_of_training():
    model, x = Classifier(), torch.rand(3, 1, 12, 12)
    other = copy.deepcopy(model)
    AttentionInferer(layer="features.3")(x, model).square().sum().backward()
    SimpleInferer()(x, other).square().sum().backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert theirs.grad.any()
        assert torch.equal(ours.grad, theirs.grad)


class Noisy(nn.Module):
    """A network with batch normalisation, dropout, and noise in both modes."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.drop(self.fine(x + 0.01 * torch.rand_like(x))))


def test_windows_in_training_leave_statistics_randomness_and_gradients_alone():
    model, x = Noisy().train(), torch.rand(2, 1, 12, 12)
    model.fine[1].requires_grad_(False)
    model.fine.eval()  # a frozen part stays in evaluation mode
    other = copy.deepcopy(model)
    results = []
    for one, inferer in [
        (model, AttentionInferer(SlidingWindowInferer(8), layer="fine.2", target=ONE)),
        (other, SlidingWindowInferer(8)),
    ]:
        torch.manual_seed(5)
        prediction = inferer(x, one)
        prediction.square().sum().backward()
        results.append((prediction.detach(), torch.rand(3)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert [m.training for m in model.modules()] == [m.training for m in other.modules()]
    for name, ours in model.state_dict().items():
        assert torch.equal(ours, other.state_dict()[name]), name
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
        assert ours.requires_grad == theirs.requires_grad


def test_inference_mode_changes_nothing():
    make, model, x = case("windows")
    inferer = AttentionInferer(make(), layer="fine", target=1)
    with torch.no_grad():
        same(inferer(x, model), make()(x, model))
    expected = inferer.attention
    with torch.inference_mode():
        inferer(x, model)
    assert expected.any()
    assert torch.equal(inferer.attention.as_tensor(), expected.as_tensor())


def test_autocast_explains_what_it_predicts():
    x = torch.rand(1, 1, 24, 24)
    model = net(2, dtype=torch.float32)
    exact = AttentionInferer(SlidingWindowInferer(12), layer="fine", target=1)
    exact(x, model)
    mixed = AttentionInferer(SlidingWindowInferer(12), layer="fine", target=1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        prediction = mixed(x, model)
        same(prediction, SlidingWindowInferer(12)(x, model))
    pair = torch.stack([mixed.attention.flatten(), exact.attention.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.99


# ------------------------------------------------------------------------------- what comes out


def test_maps_carry_the_images_geometry_and_copies_of_its_history():
    make, model, x = case("windows")
    x.applied_operations = [[{"class": "Flip"}], [{"class": "Zoom"}]]
    x.meta["filename_or_obj"] = ["a.nii", "b.nii"]
    inferer = AttentionInferer(make(), layer="fine", target=medcam.targets.classes(1, 2))
    inferer(x, model)
    found = inferer.attention
    assert isinstance(found, MetaTensor)
    assert found.shape == (2, 2, 11, 9, 6)
    assert torch.equal(found.as_tensor(), inferer.explanation.map.values)
    assert torch.equal(found.affine, AFFINE)
    assert found.applied_operations == x.applied_operations
    found.applied_operations[0].clear()
    found.meta["filename_or_obj"][0] = "other"
    found.affine[0, 3] = 0
    assert x.applied_operations[0] == [{"class": "Flip"}]
    assert x.meta["filename_or_obj"][0] == "a.nii"
    assert torch.equal(x.affine, AFFINE)


def test_a_plain_tensor_gives_plain_maps():
    make, model, x = case("windows")
    inferer = AttentionInferer(make(), layer="fine", target=ONE)
    assert type(inferer(x.as_tensor(), model)) is torch.Tensor
    assert type(inferer.attention) is torch.Tensor


def test_prediction_and_map_are_returned_together_on_request():
    make, model, x = case("windows")
    inferer = AttentionInferer(make(), layer="fine", target=ONE, return_attention=True)
    prediction, attention = inferer(x, model)
    same(prediction, make()(x, model))
    assert attention is inferer.attention


def test_several_maps_are_kept_by_name():
    make, model, x = case("windows")
    inferer = AttentionInferer(make(), method=["gcam", "gbp"], layer="fine", target=ONE)
    inferer(x, model)
    assert list(inferer.attention) == [("gcam", "fine"), ("gbp", None)]
    for key, item in inferer.attention.items():
        assert torch.equal(item.affine, AFFINE)
        assert torch.equal(item.as_tensor(), inferer.explanation.maps[key].values)


def test_channel_weights_reach_the_stitching():
    _, model, x = case("windows")
    maps = {}
    for weights in ("window", "volume"):
        inferer = AttentionInferer(
            SlidingWindowInferer((6, 6, 4)), method="gcam", layer="fine", target=1,
            channel_weights=weights,
        )  # fmt: skip
        inferer(x, model)
        maps[weights] = inferer.attention.as_tensor()
        expected = medcam.explain_volume(
            model, x, (6, 6, 4), mode="constant", method="gcam", layer="fine", target=1,
            channel_weights=weights,
        )  # fmt: skip
        torch.testing.assert_close(maps[weights], expected.map.values, rtol=0, atol=1e-12)
    assert not torch.allclose(maps["window"], maps["volume"])


# ---------------------------------------------------------------------------- further inputs


class Shifted(nn.Module):
    """A network with a further positional input and a keyword input."""

    def __init__(self):
        super().__init__()
        self.net = net(2)

    def forward(self, x, scale, *, shift=0.0):
        return self.net(x * scale) + shift * x


@pytest.mark.parametrize("inferer", [SimpleInferer(), SlidingWindowInferer(8)])
def test_further_inputs_reach_the_network_and_count(inferer):
    model, x = Shifted(), torch.rand(1, 1, 14, 14, dtype=torch.float64)
    found = AttentionInferer(inferer, method="saliency", layer="net.fine", target=ONE)
    same(found(x, model, 3.0, shift=-2.0), inferer(x, model, 3.0, shift=-2.0))
    leaf = x.clone().requires_grad_()
    score = inferer(leaf, model, 3.0, shift=-2.0)[:, 1].mean()
    (expected,) = torch.autograd.grad(score, leaf)
    torch.testing.assert_close(found.explanation.map.channels[:, 0], expected, rtol=0, atol=1e-12)


def test_layers_of_a_network_with_further_inputs_keep_their_names():
    model, x = Shifted(), torch.rand(1, 1, 14, 14, dtype=torch.float64)
    found = AttentionInferer(
        SlidingWindowInferer(8), method="hirescam", layer="net.fine", target=ONE
    )
    found(x, model, 3.0)
    assert found.explanation.layer == "net.fine"
    assert found.attention.any()


# --------------------------------------------------------------------------- kinds of networks


def unet_pp():
    return nets.BasicUNetPlusPlus(2, 1, 3, (4, 4, 8, 8, 16, 4), True)


def segresnet_ds():
    return nets.SegResNetDS(2, 8, 1, 3, norm="INSTANCE", dsdepth=3).train()


def swin():
    return nets.SwinUNETR(
        1, 3, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), feature_size=12, spatial_dims=2,
        window_size=4,
    )  # fmt: skip


def dynunet():
    return nets.DynUNet(
        2, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4, 8, 16, 32], deep_supervision=True,
        deep_supr_num=2,
    )  # fmt: skip


NETWORKS = {  # network, output=, how its output is explained, its mode
    "UNet": (lambda: nets.UNet(2, 1, 3, (4, 8, 16), (2, 2)), None, lambda y: y),
    "DynUNet": (dynunet, None, lambda y: y),
    "BasicUNet++, the last of its list": (unet_pp, -1, lambda y: y[-1]),
    "SegResNetDS, a list": (segresnet_ds, None, lambda y: y[0]),
    "UNETR": (
        lambda: nets.UNETR(1, 3, [32, 32], 4, 16, 32, 2, spatial_dims=2),
        None,
        lambda y: y,
    ),
    "SwinUNETR": (swin, None, lambda y: y),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_monais_networks_through_windows(name):
    make, output, pick = NETWORKS[name]
    model = make().double()
    model.train(name.startswith("SegResNetDS"))  # it returns a list only then
    size = 64 if name == "SwinUNETR" else 32
    x = torch.rand(1, 1, size + 16, size + 8, dtype=torch.float64)
    plain = SlidingWindowInferer(size, overlap=0.5)
    inferer = AttentionInferer(plain, method=["hirescam", "saliency"], target=ONE, output=output)
    with torch.no_grad():
        same(inferer(x, model), plain(x, model))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(pick(plain(leaf, model))[:, 1].mean(), leaf)
    found = inferer.explanation.maps
    torch.testing.assert_close(found["saliency", None].channels[:, 0], expected, rtol=0, atol=1e-9)
    cam = next(item for key, item in found.items() if key[0] == "hirescam")
    assert cam.layer == inferer.explanation.layer
    assert cam.values.shape == x.shape
    assert cam.values.std() > 1e-3 * cam.values.abs().max() > 0


def vae():
    return nets.SegResNetVAE([32, 32], 8, spatial_dims=2, in_channels=1, out_channels=3)


def vit():
    return nets.ViT(
        1, (32, 32), (8, 8), 16, 32, 3, 2, classification=True, num_classes=3, spatial_dims=2,
        post_activation=None,
    )  # fmt: skip


@pytest.mark.parametrize("make", [vae, vit])
@pytest.mark.parametrize("output", [None, 0])
def test_networks_that_return_something_beside_go_through_the_simple_inferer(make, output):
    model, x = make().double().eval(), torch.rand(1, 1, 32, 32, dtype=torch.float64)
    inferer = AttentionInferer(method="saliency", target=ONE, output=output)
    with torch.no_grad():
        prediction = inferer(x, model)
        expected = model(x)
    assert isinstance(prediction, tuple)
    assert torch.equal(prediction[0], expected[0])
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[0][:, 1].mean(), leaf)
    torch.testing.assert_close(inferer.explanation.map.channels[:, 0], gradient, rtol=0, atol=1e-10)


class Named(nn.Module):
    """A network that returns a dictionary whose keys are not in alphabetical order."""

    def __init__(self):
        super().__init__()
        self.net = net(2)

    def forward(self, x):
        logits = self.net(x)
        return {"seg": logits, "aux": logits.flip(1)}


def test_dictionaries_are_chosen_from_by_key():
    model, x = Named(), torch.rand(1, 1, 14, 14, dtype=torch.float64)
    plain = SlidingWindowInferer(8)
    maps = {}
    for key in ("seg", "aux"):
        inferer = AttentionInferer(plain, method="saliency", target=ONE, output=key)
        same(inferer(x, model), plain(x, model))
        leaf = x.clone().requires_grad_()
        (maps[key],) = torch.autograd.grad(plain(leaf, model)[key][:, 1].mean(), leaf)
        torch.testing.assert_close(
            inferer.explanation.map.channels[:, 0], maps[key], rtol=0, atol=1e-12
        )
    inferer = AttentionInferer(plain, target=ONE, output=1)
    with pytest.raises(InputError, match=r"choose by key, one of \['aux', 'seg'\]"):
        inferer(x, model)


@pytest.mark.parametrize(
    "wrapper", [nn.DataParallel, functools.partial(torch.compile, backend="eager")]
)
def test_wrapped_networks_are_looked_through(wrapper):
    model, x = net(2), torch.rand(1, 1, 14, 14, dtype=torch.float64)
    expected = AttentionInferer(layer="fine", target=1)
    expected(x, model)
    found = AttentionInferer(layer="fine", target=1)
    found(x, wrapper(model))
    assert expected.attention.any()
    assert torch.equal(found.attention, expected.attention)


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttentionInferer(PatchInferer()), "PatchInferer cannot be wrapped"),
        (lambda: AttentionInferer(SaliencyInferer("CAM", "a")), "SaliencyInferer cannot"),
        (lambda: AttentionInferer(AttentionInferer()), "AttentionInferer cannot be wrapped"),
        (lambda: AttentionInferer(SlidingWindowInferer(8, with_coord=True)), "with_coord=False"),
        (lambda: AttentionInferer(target=1, label=1), "give one of them"),
        (lambda: AttentionInferer(method="gcamm"), "Did you mean"),
        (lambda: AttentionInferer(target="bst"), "bst"),
    ],
)
def test_what_cannot_be_done_is_refused_when_the_inferer_is_made(make, message):
    with pytest.raises((InputError, InputTypeError), match=message):
        make()


def test_networks_that_cannot_be_looked_into_are_refused():
    model, x = net(2), torch.rand(1, 1, 14, 14, dtype=torch.float64)
    with pytest.raises(InputTypeError, match=r"network= is a torch\.nn\.Module, not function"):
        AttentionInferer()(x, lambda image: model(image))
    sliding = AttentionInferer(SlidingWindowInferer(8), layer="fine", target=1)

    class Conditioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x, condition):
            return self.net(x + condition)

    with pytest.raises(InputError, match="concatenate it to the image's channels"):
        sliding(x, Conditioned(), condition=x)


def test_a_class_that_is_nowhere_predicted_gives_a_map_and_a_warning():
    model, x = net(2), torch.rand(1, 1, 14, 14, dtype=torch.float64)
    with torch.no_grad():
        model.head.bias[1] = -100
    inferer = AttentionInferer(SlidingWindowInferer(8), layer="fine", target=1)
    with pytest.warns(MedcamWarning, match="nowhere"):
        same(inferer(x, model), SlidingWindowInferer(8)(x, model))
    assert inferer.attention.shape == (1, 1, 14, 14)


def test_configuration_files_find_the_inferer_by_name():
    assert pydoc.locate("medcam.monai.AttentionInferer") is AttentionInferer
    assert medcam.monai.__name__ == "medcam.frameworks.monai"
