"""Maps over nnU-Net's windows, mirrorings and folds equal autograd and loops by hand."""

from __future__ import annotations

import dataclasses
import itertools
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

import medcam
from medcam.frameworks.nnunet.cases import case_from_files
from medcam.frameworks.nnunet.preprocessing import prepare
from medcam.frameworks.nnunet.target import resolve_fixed
from medcam.methods import METHODS, Method
from support.methods import ONCE


def flips_of(axes):
    return [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]


def stitched(model, data, network, flips, patch):
    """nnU-Net's sliding window in float32, with its graph, for one network and mirroring."""
    padded, kept = pad_nd_image(data, patch, "constant", {"value": 0}, True, None)
    slicers = model.predictor._internal_get_sliding_window_slicers(padded.shape[1:])
    gauss = compute_gaussian(
        tuple(patch), 1 / 8, value_scaling_factor=10, dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip
    total, weight = 0, torch.zeros(padded.shape[1:])
    for slicer in slicers:
        window = padded[slicer][None]
        axes = [axis + 2 for axis in flips]
        out = network(window.flip(axes)).flip(axes)[0] * gauss
        part = torch.zeros(len(out), *padded.shape[1:])
        part[slicer] = out
        total = total + part
        weight[slicer[1:]] += gauss
    return (total / weight)[(slice(None), *kept[1:])]


@pytest.mark.parametrize(
    "options", [{"mirror": (0, 1)}, {"configuration": "2d", "mirror": (0,)}], ids=str
)
def test_input_gradients_are_those_straight_through_nnunets_prediction(options, trained, case):
    model = medcam.nnunet.load(trained(**options))
    found = medcam.nnunet.explain(model, case, "PZ", method="saliency")
    prepared = prepare(model, case_from_files(model, case))
    leaf = torch.from_numpy(prepared.data).requires_grad_()
    inside = (
        np.asarray(
            model.predictor.label_manager.convert_logits_to_segmentation(
                found.explanation.output[0]
            )
        )
        == 1
    )
    mean = 0
    flips = flips_of(model.mirror_axes)
    for fold in range(2):
        network = model.with_fold(fold)
        for turn in flips:
            out = stitched(
                model, leaf, network, turn, model.predictor.configuration_manager.patch_size
            )
            mean = mean + out[1][torch.from_numpy(inside)].mean() / (2 * len(flips))
        (expected,) = torch.autograd.grad(mean, leaf)  # before the next fold's parameters
        mean = 0
        total = expected if fold == 0 else total + expected
    ours = found.explanation.map.channels[0, 0]
    assert total.abs().max() > 0
    torch.testing.assert_close(ours, total, rtol=0, atol=1e-5 * float(total.abs().max()))


def test_integrated_gradients_are_those_straight_through_nnunets_prediction(trained, case):
    model = medcam.nnunet.load(trained(mirror=(0,)))
    region = "point 9,12,8"  # a target that does not depend on the prediction
    prepared = prepare(model, case_from_files(model, case))
    data, at = torch.from_numpy(prepared.data), resolve_fixed(prepared, "PZ", region).voxels
    other = data.flip(1)
    method = medcam.methods.intgrad(baseline=other, steps=2)
    found = medcam.nnunet.explain(model, case, "PZ", target=region, method=method)
    total, patch = 0, model.predictor.configuration_manager.patch_size
    for network in map(model.with_fold, range(2)):
        for flips in flips_of(model.mirror_axes):
            for place in (0.5 - 12**-0.5, 0.5 + 12**-0.5):  # Gauss-Legendre
                leaf = (other + place * (data - other)).requires_grad_()
                score = stitched(model, leaf, network, flips, patch)[1][torch.from_numpy(at)].mean()
                total = total + torch.autograd.grad(score, leaf)[0] / 2 / 4
    expected = total * (data - other)
    channels = found.explanation.map.channels[0, 0]
    torch.testing.assert_close(channels, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert found.map.shape == found.segmentation.shape


def test_grad_cam_is_rectified_once_at_the_very_end(trained, case):
    model = medcam.nnunet.load(trained())
    found, signed = (
        medcam.nnunet.explain(model, case, "PZ", method=method, layer="encoder.stages.1")
        for method in ("gcam", medcam.methods.get("gcam", rectify=False))
    )
    assert found.map.any()
    assert signed.map.min() < 0
    np.testing.assert_array_equal(found.map, np.maximum(signed.map, 0))
    prepared = prepare(model, case_from_files(model, case))
    on_grid = signed.explanation.map.values[0, 0].numpy()
    np.testing.assert_array_equal(signed.map, prepared.to_image_grid(on_grid))


@pytest.mark.filterwarnings("ignore:.*cannot explain a part")
def test_folds_are_averaged(trained, case):
    signed = medcam.methods.get("gcam", rectify=False)
    region = "point 9,12,8"  # a target that does not depend on the prediction
    options = {"method": signed, "target": region, "tta": False, "layer": "encoder.stages.1"}
    one, two, both = (
        medcam.nnunet.explain(trained(), case, "PZ", folds=folds, **options).map
        for folds in (0, 1, "all")
    )
    assert not np.allclose(one, two)
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("method", ONCE)
def test_every_method_has_a_map(method, trained, case):
    found = medcam.nnunet.explain(trained(), case, "TZ", method=method, folds=0, tta=False)
    assert found.map.dtype == np.float32
    assert found.map.shape == (19, 23, 17)
    assert np.isfinite(found.map).all()
    assert np.abs(found.map).max() > 0
    of_input = method in ("gbp", "ggcam", "saliency", "inputxgradient")
    assert bool(found.importance) == of_input
    for shares in found.importance.values():
        assert list(shares) == ["T2", "ADC"]
        assert sum(shares.values()) == pytest.approx(1)


def energy(activations, gradients):
    """A method of a user's own: positive gradients times squared activations."""
    return (activations.square() * gradients.relu()).sum(1)


def contribution(activations, gradients):
    return (activations.square() * gradients).sum(1)


OWN = {
    False: Method("energy", energy, "Energy-CAM"),
    True: Method("contribution", contribution, "Contribution-CAM", signed=True),
}


@pytest.mark.parametrize("signed", OWN)
def test_a_method_of_ones_own_in_a_single_window_is_explain(signed, trained, case):
    method = OWN[signed]
    patch = (32, 32, 32)  # larger than the grid
    model = medcam.nnunet.load(trained(folds=(0,), mirror=(), patch=patch))
    found = medcam.nnunet.explain(model, case, "PZ", method=method, layer="encoder.stages.1")
    prepared = prepare(model, case_from_files(model, case))
    window, inside = pad_nd_image(
        torch.from_numpy(prepared.data), patch, "constant", {"value": 0}, True, None
    )
    predicted = found.explanation.output[0].argmax(0) == 1

    def mean_logit(logits):
        return logits[(slice(None), 1, *inside[1:])][:, predicted].mean(1)

    expected = medcam.explain(
        model.network, window[None], method=method, layer="encoder.stages.1", target=mean_logit
    )
    on_grid = expected.map.values[(0, 0, *inside[1:])].numpy()
    assert on_grid.any()
    assert (on_grid.min() < 0) == signed
    scale = float(np.abs(on_grid).max())
    np.testing.assert_allclose(
        found.explanation.map.values[0, 0].numpy(), on_grid, rtol=0, atol=1e-5 * scale
    )
    np.testing.assert_allclose(
        found.map, prepared.to_image_grid(on_grid), rtol=0, atol=1e-5 * scale
    )


@pytest.mark.parametrize("signed", OWN)
def test_an_unregistered_method_is_the_registered_one(signed, trained, case, monkeypatch):
    method = OWN[signed]
    assert method.name not in METHODS
    found = medcam.nnunet.explain(trained(), case, "PZ", method=method)
    monkeypatch.setitem(METHODS, method.name, method)
    registered = medcam.nnunet.explain(trained(), case, "PZ", method=method.name)
    assert found.map.any()
    assert (found.map.min() < 0) == signed
    np.testing.assert_array_equal(found.map, registered.map)


def test_a_renamed_method_is_the_same_method(trained, case):
    mine = dataclasses.replace(medcam.methods.get("segxrescam"), name="mine")
    together = medcam.nnunet.explain(trained(), case, "PZ", method=[mine, "segxrescam"])
    registered = medcam.nnunet.explain(trained(), case, "PZ", method="segxrescam").map
    assert registered.any()
    assert [name for name, _ in together.maps] == ["mine", "segxrescam"]
    for values in together.maps.values():
        np.testing.assert_array_equal(values, registered)


def test_methods_of_ones_own_are_saved_under_their_names(trained, case, tmp_path):
    mine = dataclasses.replace(medcam.methods.get("segxrescam"), name="mine")
    found = medcam.nnunet.explain(trained(), case, "PZ", method=[mine, *OWN.values()])
    files = found.save(tmp_path / "c", report=True)
    assert [path.name for path in files] == [
        "c_mine.nii.gz", "c_energy.nii.gz", "c_contribution.nii.gz", "c_seg.nii.gz",
        "c_montage.png", "c.html", "c.json",
    ]  # fmt: skip
    for path, values in zip(files, found.maps.values(), strict=False):
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), values)
    entries = json.loads(files[-1].read_text())["maps"]
    assert [(entry["method"], entry["title"], entry["signed"]) for entry in entries] == [
        ("mine", "Seg-XRes-CAM", False),
        ("energy", "Energy-CAM", False),
        ("contribution", "Contribution-CAM", True),
    ]
    page = files[-2].read_text(encoding="utf-8")
    for title in ("Seg-XRes-CAM", "Energy-CAM", "Contribution-CAM"):
        assert title in page


def test_the_network_is_left_as_it_was(trained, case):
    model = medcam.nnunet.load(trained())
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    medcam.nnunet.explain(model, case, "PZ", tta=False)
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not model.network.training
