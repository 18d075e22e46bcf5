"""A stranger's method works wherever a name does: one call, volumes, the one line, the shell."""

from __future__ import annotations

import ast
import dataclasses
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import medcam
from medcam import targets
from medcam.cli import app
from medcam.errors import InputError, InputTypeError
from medcam.maps import resample
from medcam.methods import METHODS, FromCam, Method, SharedWeights, get
from support.nets import Classifier, UNet, balanced, image
from support.stitched import Sliding, net, placed, through_monai, windows

SOURCE = Path(medcam.__file__).parent
ROI = (8, 6)


def energy(activations, gradients, rectify=True):
    """Energy-CAM, which nobody has published: squared activations times positive gradients."""
    cam = (activations.square() * gradients.relu()).sum(1)
    return cam.relu() if rectify else cam


def contribution(activations, gradients):
    return (activations * gradients).sum(1)


def doubled(inputs, input_gradients):
    return 2 * inputs * input_gradients


def gated(input_gradients, activations, gradients):
    """A method of the input that also needs a layer, and does not say how to put it together."""
    cam = contribution(activations, gradients)[:, None]
    return input_gradients * resample(cam, input_gradients.shape[2:]).sigmoid()


ENERGY = Method("energy", energy, "Energy-CAM")
SUMMED = Method("summed", contribution, "Contribution", signed=True, stitched="sum")
DOUBLED = Method("doubled", doubled, "Doubled", signed=True)
GATED = Method("gated", gated, "Gated", signed=True)


def case():
    torch.manual_seed(1)
    return net(2, 2), torch.rand(2, 2, 19, 13, dtype=torch.float64)


def explained(method, **options):
    model, x = case()
    return medcam.explain_volume(model, x, ROI, layer="coarse", target=1, method=method, **options)


def close(found, expected):
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max())


def by_windows(method, factor_of, weights_of):
    """The windows' maps stitched by a loop; what counts how much is said by two functions."""
    model, x = case()
    leaf = through_monai(model, x, ROI).detach().requires_grad_()
    score = (leaf[:, 1] * (leaf.argmax(1) == 1)).flatten(1).sum(1)
    score = score / (leaf.argmax(1) == 1).flatten(1).sum(1)
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    places, own, total, count = windows(x.shape[2:], ROI)
    stitched, norm = 0.0, torch.zeros(x.shape[2:], dtype=x.dtype)
    for place in places:
        seed = gradient[(..., *place)] * own * factor_of(total, count)[place]
        found = medcam.explain(
            model, x[(..., *place)], method=method.signed_form(), layer="coarse",
            target=lambda logits, seed=seed: (logits * seed).flatten(1).sum(1),
        )  # fmt: skip
        values = found.map.values[:, 0] if found.map.channels is None else found.map.channels[:, 0]
        if isinstance(stitched, float):
            stitched = values.new_zeros(*values.shape[: values.ndim - 2], *x.shape[2:])
        stitched[(..., *place)] += values * weights_of(own)
        norm[place] += weights_of(own)
    return stitched, norm


def mean_of_windows(method):
    stitched, norm = by_windows(method, lambda total, count: count / total, lambda own: own)
    return stitched / norm


# ------------------------------------------------------------------------------------ one call


@pytest.mark.parametrize("registered", [False, True])
def test_one_call(monkeypatch, registered):
    if registered:
        monkeypatch.setitem(METHODS, "energy", ENERGY)
    x, model = image(), Classifier().eval()
    method = "energy" if registered else ENERGY
    found = medcam.explain(model, x, method=method, layer="features.4", target=1, shape=None)
    features = model.features(x).detach().requires_grad_()
    model.head(features.flatten(2).mean(2))[:, 1].sum().backward()
    close(found.map.values[:, 0], energy(features.detach(), features.grad))
    assert (found.map.method, found.map.title) == ("energy", "Energy-CAM")


def test_the_one_line():
    model = medcam.inject(Classifier().eval(), backend=ENERGY, layer="features.4", normalize=False)
    model(image())
    expected = medcam.explain(model, image(), method=ENERGY, layer="features.4")
    assert model.get_attention_map().shape == expected.map.values.shape
    assert model.get_explanation().map.title == "Energy-CAM"


def test_what_is_saved_has_its_title(tmp_path):
    model = Classifier().eval()
    found = medcam.explain(model, image(batch=1), method=ENERGY, target=1)
    files = found.save(tmp_path / "a")
    assert "a_energy.tif" in {path.name for path in files}
    assert json.loads(files[-1].read_text())["maps"][0]["title"] == "Energy-CAM"
    assert "Energy-CAM" in (tmp_path / "a.html").read_text()
    from medcam.explanation.case.reading import read_case

    assert read_case(files[-1]).maps[0].method == "Energy-CAM"


# ------------------------------------------------------------------------------------- volumes


def test_a_mean_of_windows_is_rectified_once():
    close(explained(ENERGY).map.values[:, 0], mean_of_windows(ENERGY).relu())


def test_a_sum_of_windows():
    stitched, _ = by_windows(SUMMED, lambda total, count: 1 / total, torch.ones_like)
    close(explained(SUMMED).map.values[:, 0], stitched)


def test_a_method_of_the_input_is_straight_through_the_stitching():
    model, x = case()
    found = explained(DOUBLED)
    whole = medcam.explain(Sliding(model, ROI, mode="gaussian"), x, method=DOUBLED, target=1)
    close(found.map.channels, whole.map.channels)


def test_a_method_of_input_and_layer_without_a_rule_is_a_mean_of_windows():
    close(explained(GATED).map.channels[:, 0], mean_of_windows(GATED))


def test_a_method_of_input_and_layer_with_a_rule():
    def by_cam(input_gradients, cam):
        return input_gradients * cam[:, None].sigmoid()

    ruled = dataclasses.replace(GATED, from_cam=FromCam(SUMMED, by_cam))
    parts = explained([SUMMED, "inputxgradient", "saliency"]).maps
    cam = parts["summed", "coarse"].values
    gradients = parts["saliency", None].channels
    close(explained(ruled).map.channels, gradients * cam[:, :, None].sigmoid())


def test_shared_weights_of_ones_own():
    """The mean activation of the whole volume as weights, and as offset."""

    def totals(activations):
        flat = activations.flatten(2)
        return torch.cat([flat.sum(2), flat.new_full((len(flat), 1), flat.shape[2])], 1)

    def mean(sums):
        weights = sums[..., :-1] / sums[..., -1:]
        return weights, weights[:, 0]

    shared = SharedWeights(totals, mean, of_target=False)
    method = Method(
        "mine", lambda activations: activations.mean(1), "Mine", signed=True, stitched="shared",
        shared=shared,
    )  # fmt: skip
    model, x = case()
    places, own, total, _ = windows(x.shape[2:], ROI)
    features = [model.coarse(model.fine(x[(..., *place)])).detach() for place in places]
    whole = torch.cat([part.flatten(2) for part in features], 2).mean(2)
    expected = torch.zeros(2, *x.shape[2:], dtype=x.dtype)
    for place, part in zip(places, features, strict=True):
        cam = torch.einsum("bk,bkxy->bxy", whole, part - whole[..., None, None])
        expected[(..., *place)] += placed(cam[:, None], ROI)[:, 0] * own
    close(explained(method).map.values[:, 0], expected / total)


@pytest.mark.parametrize("name", ["segxrescam", "eigencam", "ggcam", "hirescam", "gcampp", "gbp"])
def test_a_renamed_method_is_the_same_method(name):
    renamed = dataclasses.replace(get(name), name="mine")
    found = explained([renamed, name]).maps
    (mine,), (own,) = (
        [item for key, item in found.items() if key[0] == wanted] for wanted in ("mine", name)
    )
    assert torch.equal(mine.values, own.values)
    assert mine.values.any()
    assert mine.method == "mine"


@pytest.mark.parametrize("channel_weights", ["window", "volume"])
def test_the_name_of_another_method_is_not_taken_for_it(channel_weights):
    """Guided Grad-CAM is made of Grad-CAM, not of whatever is called "gcam"."""
    impostor = dataclasses.replace(get("hirescam"), name="gcam")
    found = explained([impostor, "ggcam"], channel_weights=channel_weights).maps
    alone = explained("ggcam", channel_weights=channel_weights).map
    assert torch.equal(found["ggcam", "coarse"].values, alone.values)
    assert torch.equal(found["gcam", "coarse"].values, explained("hirescam").map.values)


def test_parts_that_methods_share_are_made_once():
    """nnU-Net asks for maps without their ReLU: these are the same part all the same."""
    windows_explained = []
    model, x = case()
    for methods in (["ggcam"], [get("gcam").signed_form(), "ggcam"], ["gcam", "ggcam"]):
        totals: list[int] = []
        medcam.explain_volume(
            model, x, ROI, layer="coarse", target=1, method=methods, channel_weights="volume",
            progress=lambda done, of, totals=totals: totals.append(of),
        )  # fmt: skip
        windows_explained.append(totals[-1])
    assert len(set(windows_explained)) == 1


def test_maps_of_many_layers_with_shared_weights_are_streamed(monkeypatch):
    from medcam.engine import gather

    streamed = []

    def spied(*args, **options):
        streamed.append(1)
        return stream(*args, **options)

    stream = gather.stream_gradients
    monkeypatch.setattr(gather, "stream_gradients", spied)
    model, x = case()
    options = {"target": 1, "channel_weights": "volume"}
    found = medcam.explain_volume(model, x[:1], ROI, layer=["fine", "coarse"], **options)
    assert len(streamed) > 0
    assert found.layer == ("fine", "coarse")
    for layer in found.layer:
        alone = medcam.explain_volume(model, x[:1], ROI, layer=layer, **options)
        torch.testing.assert_close(found.maps[layer].values, alone.map.values)


def test_a_callable_that_cannot_be_hashed():
    class Energy:
        __hash__ = None

        def __call__(self, activations, gradients, rectify=True):
            return energy(activations, gradients, rectify)

    own = dataclasses.replace(ENERGY, function=Energy())
    assert torch.equal(explained(own).map.values, explained(ENERGY).map.values)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (FromCam(get("ggcam"), lambda input_gradients, cam: cam), "no method of a layer alone"),
        (FromCam(SUMMED, lambda guided_gradients, cam: cam), "takes cam, guided_gradients, not"),
        (FromCam(SUMMED, lambda input_gradients: input_gradients), "takes input_gradients, not"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_when_it_is_made(rule, says):
    with pytest.raises(InputError, match=says):
        dataclasses.replace(GATED, from_cam=rule)
    with pytest.raises(InputError, match="a method of the input that uses a layer"):
        dataclasses.replace(DOUBLED, from_cam=FromCam(SUMMED, lambda input_gradients, cam: cam))


def test_a_target_that_no_voxel_has_gives_zeros_of_the_methods_own_kind():
    model, x = case()
    nothing = targets.where(lambda logits: torch.zeros_like(logits[:, 0], dtype=torch.bool), k=1)
    with pytest.warns(medcam.errors.MedcamWarning, match="empty"):
        found = medcam.explain_volume(
            model, x, ROI, method=[SUMMED, GATED], layer="coarse", target=nothing
        )
    assert not any(item.values.any() for item in found.maps.values())
    assert found.maps["gated", "coarse"].channels.shape == (2, 1, 2, 19, 13)


# ---------------------------------------------------------------------------- the command line

CODE = """
import torch
from support.nets import UNet, balanced
from medcam.methods import METHODS, Method

def net():
    torch.manual_seed(0)
    return balanced(UNet(3), 3)

def energy(activations, gradients):
    return (activations.square() * gradients.relu()).sum(1)

mine = Method("energy", energy, "Energy-CAM")
METHODS["registered"] = Method("registered", energy, "Registered")
no_method = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    (tmp_path / "users_method.py").write_text(CODE)
    values = np.random.default_rng(0).random((12, 10, 14), np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([1, 2, 3, 1.0])), tmp_path / "head.nii.gz")
    yield tmp_path
    sys.modules.pop("users_method", None)
    METHODS.pop("registered", None)


def run(*arguments):
    return CliRunner().invoke(
        app, ["explain", "-m", "users_method.py:net", "-i", "head.nii.gz", "-o", "out",
              "--target", "1", "--layer", "bottleneck", "--device", "cpu", *arguments],
    )  # fmt: skip


@pytest.mark.parametrize("windows", [[], ["--roi", "8", "8", "8"]])
@pytest.mark.parametrize(
    ("option", "name"), [("users_method.py:mine", "energy"), ("registered", "registered")]
)
def test_the_command_line(here, option, name, windows):
    done = run("--method", option, *windows)
    assert done.exit_code == 0, done.output
    saved = nib.load(here / "out" / f"head_{name}.nii.gz").get_fdata(dtype=np.float32)
    torch.manual_seed(0)
    model, values = balanced(UNet(3), 3), nib.load("head.nii.gz").get_fdata(dtype=np.float32)
    x, asked = torch.from_numpy(values)[None, None], {"layer": "bottleneck", "target": 1}
    expected = (
        medcam.explain_volume(model, x, 8, method=ENERGY, **asked)
        if windows
        else medcam.explain(model, x, method=ENERGY, **asked)
    )
    if windows:  # its function has no ReLU that could be left out
        unrectified = dataclasses.replace(
            ENERGY, function=lambda activations, gradients: energy(activations, gradients)
        )
        expected = medcam.explain_volume(model, x, 8, method=unrectified, **asked)
    np.testing.assert_allclose(saved, expected.map.values[0, 0].numpy(), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("users_method.py:no_method", "is a int, not a medcam.methods.Method"),
        ("users_method.py:mien", "Method 'mien' does not exist. Did you mean 'mine'"),
        ("nowhere.py:mine", "of --method does not exist"),
        ("energi", "Method 'energi' does not exist"),
    ],
)
def test_wrong_methods_are_told_before_anything_runs(here, option, says):
    done = run("--method", option)
    assert done.exit_code == 2
    assert says in done.output
    assert not (here / "out").exists()


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stitched": "pooled"}, "choose 'mean', 'sum' or 'shared'"),
        ({"stitched": "shared"}, "give shared=SharedWeights"),
        ({"function": lambda pool=2: pool}, "takes no evidence"),
        ({"function": lambda activations, acts: acts}, "takes 'acts', which is no evidence"),
        ({"function": "energy"}, "is no function"),
    ],
)
def test_what_cannot_be_a_method_is_refused_when_it_is_made(options, says, unchecked):
    with pytest.raises((InputError, InputTypeError), match=says):
        dataclasses.replace(ENERGY, **options)


@pytest.mark.parametrize("volume", [False, True])
def test_what_is_no_map_is_told_with_both_shapes(volume):
    method = Method("forgot", lambda activations, gradients: activations * gradients, "Forgot")
    with pytest.raises(InputError, match=r"'Forgot' returned the shape \[.*has to be \[batch, \*"):
        explained(method) if volume else medcam.explain(
            Classifier().eval(), image(), method=method, layer="features.4", target=1
        )


def test_no_file_outside_methods_compares_the_name_of_a_method():
    found = []
    for path in SOURCE.rglob("*.py"):
        if path.is_relative_to(SOURCE / "methods"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                constants = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant)}
                if constants & set(METHODS):
                    found.append(f"{path}:{node.lineno}")
    assert found == []
