"""`explain_volume`: options, errors, progress and side effects; its numbers: engine/windows."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

import medcam
from medcam import targets
from medcam.errors import InputError, InputTypeError, MedcamWarning
from medcam.targets import class_score
from support.nets import Classifier
from support.stitched import net


class Counted(nn.Module):
    """Model that counts the windows of its input."""

    def __init__(self, model):
        super().__init__()
        self.model, self.windows = model, 0

    def forward(self, x):
        self.windows += len(x)
        return self.model(x)


def corner(space, k=1):
    """Return a target in one corner of the volume."""
    region = torch.zeros(space)
    region[:3, :3] = 1
    return targets.region(region, k)


X = torch.rand(1, 1, 26, 26, generator=torch.Generator().manual_seed(2))


def model():
    return net(2, dtype=torch.float32)


def test_windows_without_the_target_are_skipped():
    counted = Counted(model())
    explanation = medcam.explain_volume(
        counted, X, 8, layer="model.coarse", target=corner((26, 26)), overlap=0
    )
    assert explanation.details["windows"] == 16
    assert explanation.details["windows_explained"] == 1
    assert counted.windows == 16 + 1


def test_skipping_changes_nothing():
    explanation = medcam.explain_volume(model(), X, 8, method="saliency", target=corner((26, 26)))
    assert explanation.details["windows_explained"] < explanation.details["windows"]
    assert (explanation.map.values[0, 0, 12:, 12:] == 0).all()
    assert explanation.map.values.max() > 0


def test_a_known_prediction_is_not_computed_again():
    counted = Counted(model())
    first = medcam.explain_volume(counted, X, 8, layer="model.fine", target=1)
    counted.windows = 0
    second = medcam.explain_volume(counted, X, 8, layer="model.fine", target=1, logits=first.output)
    assert counted.windows == first.details["windows_explained"]
    assert torch.equal(second.map.values, first.map.values)
    with pytest.raises(InputError, match=r"logits has shape \[1, 3, 25, 26\]"):
        medcam.explain_volume(counted, X, 8, logits=first.output[:, :, 1:])


@pytest.mark.filterwarnings("ignore:.*cannot explain a part")
def test_an_empty_target_is_a_zero_map_with_a_warning():
    empty = targets.region(torch.zeros(26, 26), 1)
    with pytest.warns(MedcamWarning, match="no voxel"):
        explanation = medcam.explain_volume(
            model(), X, 8, method=["gcam", "gbp", "ggcam"], layer="fine", target=empty
        )
    for item in explanation.maps.values():
        assert item.values.shape == (1, 1, 26, 26)
        assert not item.values.any()
    assert explanation.maps["gbp", None].channels.shape == (1, 1, 1, 26, 26)
    assert explanation.details["windows_explained"] == 0


@pytest.mark.parametrize("layer", ["auto", "full", ["fine", "coarse"]])
@pytest.mark.filterwarnings("ignore:The gradients of each channel cancel")
def test_layers_are_chosen_as_in_explain(layer):
    explanation = medcam.explain_volume(model(), X, 8, layer=layer, target=1)
    plain = medcam.explain(model(), X[:, :, :8, :8], layer=layer, target=1)
    assert explanation.layer == plain.layer
    assert list(explanation.maps) == list(plain.maps)


def test_methods_are_keyed_as_in_explain():
    explanation = medcam.explain_volume(
        model(), X, 8, method=["gcam", "gbp"], layer="fine", target=1
    )
    assert list(explanation.maps) == [("gcam", "fine"), ("gbp", None)]


@pytest.mark.parametrize(("channel_weights", "passes"), [("window", 2), ("volume", 3)])
def test_progress_reaches_the_total(channel_weights, passes):
    calls = []
    explanation = medcam.explain_volume(
        model(), X, 8, method=["gcam", "gbp", "eigencam"], layer="fine", target=1, sw_batch_size=3,
        channel_weights=channel_weights, progress=lambda done, of: calls.append((done, of)),
    )  # fmt: skip
    windows, explained = explanation.details["windows"], explanation.details["windows_explained"]
    ends = [(done, of) for done, of in calls if done == of]
    assert ends == [(windows, windows), (2 * explained + passes * windows,) * 2]
    with pytest.raises(InputTypeError, match="progress='yes'"):
        medcam.explain_volume(model(), X, 8, progress="yes")


def test_the_bar_is_on_the_standard_error(capsys):
    medcam.explain_volume(model(), X, 8, layer="fine", target=1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "prediction" in err
    assert "maps" in err


def test_ctrl_c_leaves_the_model_as_it_was():
    network = model()
    before = [parameter.requires_grad for parameter in network.parameters()]

    def stop(done, of):
        if of and done > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        medcam.explain_volume(network, X, 8, layer="fine", target=1, progress=stop)
    assert [parameter.requires_grad for parameter in network.parameters()] == before
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.is_grad_enabled()


def test_a_metatensor_is_read_as_a_tensor():
    plain = medcam.explain_volume(model(), X, 8, layer="fine", target=1)
    meta = medcam.explain_volume(model(), MetaTensor(X), 8, layer="fine", target=1)
    assert type(meta.map.values) is torch.Tensor
    assert torch.equal(meta.map.values, plain.map.values)


def test_half_precision_is_summed_in_float32():
    ask = {"layer": "fine", "target": 1, "method": "layercam"}  # never zero, whatever the weights
    with torch.autocast("cpu", torch.bfloat16):
        explanation = medcam.explain_volume(model(), X, 8, **ask)
    assert explanation.map.values.dtype == explanation.output.dtype == torch.float32
    exact = medcam.explain_volume(model(), X, 8, **ask)
    a, b = explanation.map.values.flatten(), exact.map.values.flatten()
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.95


def test_a_classifier_has_nothing_to_stitch():
    with pytest.raises(InputError, match=r"has the shape \[1, 3\]: it has no spatial axes"):
        medcam.explain_volume(Classifier().eval(), X, 8)


def test_logits_of_half_size_are_refused():
    halved = nn.Sequential(model(), nn.AvgPool2d(2))
    with pytest.raises(InputError, match=r"shape \[1, 3, 4, 4\]: stitching needs one logit"):
        medcam.explain_volume(halved, X, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel_weights": "all"}, "choose 'window' or 'volume'"),
        ({"sw_batch_size": 0}, "has to be at least 1"),
        ({"mirror_axes": (2,)}, "the spatial axes are 0 to 1"),
        ({"layer": "fin"}, "Did you mean 'fine'"),
        ({"target": 7}, "Class 7 does not exist"),
        ({"target": lambda logits: torch.zeros(1)}, "does not depend on the logits"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises((InputError, RuntimeError), match=message):
        medcam.explain_volume(model(), X, 8, **options)


def test_a_volume_with_nan_is_refused():
    broken = X.clone()
    broken[0, 0, 3, 3] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        medcam.explain_volume(model(), broken, 8, layer="fine", target=targets.class_score(1))


def test_a_model_in_training_is_explained_in_evaluation_mode_and_left_as_it_was():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(),
        nn.Conv2d(4, 2, 1),
    ).train()
    net[1].eval()
    x, before = torch.rand(1, 1, 20, 20), {k: v.clone() for k, v in net.state_dict().items()}
    expected = medcam.explain_volume(deepcopy(net).eval(), x, 12, layer="2", target=class_score(1))
    state = torch.get_rng_state()
    with pytest.warns(MedcamWarning, match="training mode; it is explained in evaluation mode"):
        explanation = medcam.explain_volume(net, x, 12, layer="2", target=class_score(1))
    assert torch.equal(explanation.map.values, expected.map.values)
    assert torch.equal(explanation.output, expected.output)
    assert [module.training for module in net] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_record_knows_the_model_and_the_input(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    x = torch.rand(1, 1, 20, 20)
    explanation = medcam.explain_volume(net, x, 12, layer="1", target=class_score(1))
    assert explanation.model is net
    assert explanation.inputs is x
    *_, record = explanation.save(tmp_path / "case", report=False)
    assert json.loads(record.read_text())["model"]["state_sha256"]
    folds = medcam.explain_volume([net, deepcopy(net)], x, 12, layer="1", target=class_score(1))
    with pytest.warns(MedcamWarning, match="there are several"):
        folds.save(tmp_path / "folds", report=False)
