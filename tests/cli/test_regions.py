"""``--regions``, sigmoids, and scores below chance on the command line."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medcam.cli import app

MODEL = """
import torch
from torch import nn


class Regions(nn.Module):
    def __init__(self, final=None):
        super().__init__()
        self.conv, self.final = nn.Conv2d(1, 4, 3, padding=1), final
        nn.init.uniform_(self.conv.weight, 0, 1)

    def forward(self, x):
        z = torch.full((len(x), 2, *x.shape[2:]), -4.0)
        z[:, 1, 4:12, 4:12] += 9
        z[:, 0, 6:10, 6:10] += 12
        z = z + 1e-3 * torch.relu(self.conv(x)).sum(1, keepdim=True)
        return z if self.final is None else self.final(z)


def logits():
    return Regions().eval()


def sigmoid():
    return Regions(torch.sigmoid).eval()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save("x.png")
    return tmp_path


def run(*options: str):
    plain = ["--image", "x.png", "--layer", "conv", "--scale", "255", "-o", "out"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # as outside the tests
        result = CliRunner().invoke(app, ["explain", *plain, *options])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("model", [["net.py:logits", "--regions"], ["net.py:sigmoid"]])
@pytest.mark.parametrize(("target", "voxels"), [("0", 16), ("1", 64), ("predicted", 64)])
def test_regions_are_regions_also_in_the_segmentation(here, model, target, voxels):
    run("--model", *model, "--target", target)
    record = json.loads((here / "out" / "x.json").read_text())
    assert record["maps"][0]["target"]["voxels"] == voxels
    labels = np.asarray(Image.open(here / "out" / "x_seg.tif"))
    assert [(labels == k).sum() for k in (1, 2)] == [16, 48]  # the core over the whole


def test_logits_are_classes_unless_said_with_a_warning(here):
    result = run("--model", "net.py:logits", "--target", "1")
    assert "Two channels are positive in many voxels" in result.output
    labels = np.asarray(Image.open(here / "out" / "x_seg.tif"))
    assert (labels == 1).sum() == 48


def test_a_score_below_chance_is_told_and_marked(here):
    mask = np.zeros((16, 16), np.uint8)
    mask[0, :4] = 1  # dark, and outside the region
    Image.fromarray(mask).save("mask.png")
    result = run("--mask", "mask.png", "--model", "net.py:logits", "--regions", "--target", "1",
                 "--method", "layercam")  # fmt: skip
    assert "scores below chance: relevance mass 0, where a map that knows nothing" in result.output
    page = (here / "out" / "x.html").read_text()
    assert 'data-below title="below chance' in page
