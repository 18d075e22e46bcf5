"""Regions of a sigmoid: read from a bundle's postprocessing, or said to the inferer."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Activations,
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureTyped,
)
from torch import nn

import medcam
from medcam.frameworks.monai import AttentionInferer, predicts_regions


class Regions(nn.Module):
    """Logits of a core of 16 voxels inside a whole of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        z = torch.full((len(x), 2, *x.shape[2:]), -4.0)
        z[:, 1, 4:12, 4:12] += 9
        z[:, 0, 6:10, 6:10] += 12
        return z + 1e-3 * self.head(torch.relu(self.conv(x)))


@pytest.mark.parametrize(
    "inferer", [None, SlidingWindowInferer((16, 16))], ids=["whole", "windows"]
)
@pytest.mark.parametrize(("target", "voxels"), [(0, 16), (1, 64), (None, 64), ("best", 64)])
def test_the_inferer_is_told(inferer, target, voxels):
    ask = {"layer": "conv", "target": target, "method": "hirescam"}
    regions = AttentionInferer(inferer, regions=True, **ask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regions(torch.rand(1, 1, 16, 16), Regions().eval())
    assert regions.explanation.target.voxels.tolist() == [[voxels]]
    assert regions.explanation.target.regions
    classes = AttentionInferer(inferer, **ask)
    with pytest.warns(medcam.errors.MedcamWarning, match="Two channels are positive"):
        classes(torch.rand(1, 1, 16, 16), Regions().eval())


@pytest.mark.parametrize("target", [None, 1])
def test_one_channel_is_foreground(target):
    class One(Regions):
        def forward(self, x):
            return super().forward(x)[:, 1:]

    inferer = AttentionInferer(regions=True, layer="conv", target=target, method="hirescam")
    inferer(torch.rand(1, 1, 16, 16), One().eval())
    assert inferer.explanation.target.voxels.tolist() == [[64]]


@pytest.mark.parametrize(
    ("postprocessing", "regions"),
    [
        (Compose([Activationsd("pred", sigmoid=True), AsDiscreted("pred", threshold=0.5)]), True),
        (Compose([EnsureTyped("pred"), Compose([Activationsd("pred", sigmoid=True)])]), True),
        (Activations(sigmoid=True), True),
        (Compose([Activationsd(["pred", "label"], sigmoid=[True, False])]), True),
        (Compose([Activationsd("pred", softmax=True), AsDiscreted("pred", argmax=True)]), False),
        (Compose([AsDiscreted("pred", argmax=True)]), False),
        (None, False),
    ],
)
def test_a_bundle_s_own_words(postprocessing, regions):
    assert predicts_regions(postprocessing) is regions


@pytest.mark.parametrize("sigmoid", [True, False])
def test_the_overlay_reads_the_bundle(sigmoid, tmp_path):
    bundle = {
        "output_dir": str(tmp_path),
        "inferer": {"_target_": "SimpleInferer"},
        "preprocessing": {"_target_": "Compose", "transforms": []},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": sigmoid}],
        },
        "handlers": [],
        "evaluator": {"inferer": "@inferer"},
    }
    file = tmp_path / "inference.json"
    file.write_text(json.dumps(bundle))
    parser = ConfigParser()
    parser.read_config([str(file), str(medcam.monai.bundle_overlay())])
    parser.parse()
    inferer = parser.get_parsed_content("attention_inferer")
    target = inferer.request.target
    assert (target is not None and target.description == "the predicted regions") == sigmoid
