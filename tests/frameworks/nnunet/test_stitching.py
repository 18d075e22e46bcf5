"""Maps over nnU-Net's windows, mirrorings and folds equal autograd and loops by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

import medcam
from medcam.frameworks.nnunet.cases import case_of
from medcam.frameworks.nnunet.preprocessing import prepare


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
    prepared = prepare(model, case_of(model, case))
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


def test_grad_cam_is_rectified_once_at_the_very_end(trained, case):
    model = medcam.nnunet.load(trained())
    found = medcam.nnunet.explain(model, case, "PZ")
    signed = medcam.nnunet.explain(
        model, case, "PZ", method=medcam.methods.get("gcam", rectify=False)
    )
    assert signed.map.min() < 0
    np.testing.assert_array_equal(found.map, np.maximum(signed.map, 0))
    prepared = prepare(model, case_of(model, case))
    on_grid = signed.explanation.map.values[0, 0].numpy()
    np.testing.assert_array_equal(signed.map, prepared.back(on_grid))


def test_folds_are_averaged(trained, case):
    signed = medcam.methods.get("gcam", rectify=False)
    region = "point 9,12,8"  # a target that does not depend on the prediction
    options = {"method": signed, "target": region, "tta": False}
    one, two, both = (
        medcam.nnunet.explain(trained(), case, "PZ", folds=folds, **options).map
        for folds in (0, 1, "all")
    )
    assert not np.allclose(one, two)
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("method", medcam.methods.METHODS)
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


def test_the_network_is_left_as_it_was(trained, case):
    model = medcam.nnunet.load(trained())
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    medcam.nnunet.explain(model, case, "PZ", tta=False)
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not model.network.training
