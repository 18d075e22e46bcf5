"""One map of several layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAMPlusPlus
from pytorch_grad_cam.refine_cam import RefineCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import medcam
from medcam import demo


@pytest.fixture
def images():
    slices = demo.load_lesion_slices()
    return slices.images[slices.labels == 1][:3]


def maps(images, method="hirescam", **options):
    layers = ["relu2", "relu4", "relu6"]
    return list(
        medcam.explain(
            demo.load_lesion_classifier(), images, layer=layers, method=method, target=1, **options
        ).maps.values()
    )


@pytest.mark.parametrize("rule", ["product", "mean", "max"])
def test_each_rule_by_hand(rule, images):
    items = maps(images)
    fused = medcam.fuse(items, rule)
    for sample in range(3):
        scaled = []
        for item in items:
            positive = np.maximum(item.values[sample, 0].double().numpy(), 0)
            scaled.append(positive / positive.max())
        expected = {"product": np.prod, "mean": np.mean, "max": np.max}[rule](scaled, 0)
        assert fused.values[sample, 0].numpy() == pytest.approx(expected, abs=1e-6)
    assert fused.title == "HiResCAM"
    assert "relu2" in fused.layer
    assert "relu6" in fused.layer
    assert not fused.signed


def test_the_product_of_grad_cam_pp_is_that_of_the_library_with_refine_cam(images):
    """Both up to the library's habit to stretch maps and to shift them to a minimum of 0."""
    model = demo.load_lesion_classifier()
    layers = [model.relu4, model.relu6]
    theirs = RefineCAM(model, layers, base_method=GradCAMPlusPlus)(
        images[:1], [ClassifierOutputTarget(1)]
    )
    items = maps(images[:1], "gcampp", placement="resize")[1:]
    ours = medcam.fuse(items).values[0, 0].numpy()
    assert np.corrcoef(ours.ravel(), theirs[0].ravel())[0, 1] > 0.98


def test_a_layer_without_attention_gives_zeros(images):
    items = maps(images[:1])
    silent = replace(items[0], values=torch.zeros_like(items[0].values))
    assert not medcam.fuse([silent, items[1]]).values.any()
    assert medcam.fuse([silent, items[1]], "max").values.max() == 1


def test_refusals(images):
    items = maps(images)
    with pytest.raises(medcam.errors.InputError, match="1 maps"):
        medcam.fuse(items[:1])
    with pytest.raises(medcam.errors.InputError, match="'sum'"):
        medcam.fuse(items, "sum")
    with pytest.raises(medcam.errors.InputError, match="shape='input'"):
        medcam.fuse(maps(images, shape=None))
