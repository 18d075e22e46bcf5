"""`Explanation.show` opens a page in the browser; notebooks display a picture."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import medcam
from medcam.errors import InputError, MaskError
from support.nets import Classifier, UNet, balanced, image


def picture(page):
    match_ = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    return Pillow.open(io.BytesIO(base64.b64decode(match_[1]))).convert("RGB")


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.attributes = [], [], {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.update(attrs)

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_opens_in_the_users_browser(tmp_path):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    browser.chmod(0o755)
    code = (
        "import torch, medcam\n"
        "net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(1),\n"
        "                          torch.nn.Flatten())\n"
        "explanation = medcam.explain(net, torch.rand(2, 1, 8, 8), target=1)\n"
        "print(explanation.show(sample=1, name='<b>1').as_uri())\n"
        "explanation.show(browser=False)\n"
    )
    env = {"BROWSER": f"{browser} %s", "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(  # noqa: S603  # the code is above
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env
    )
    assert (tmp_path / "opened").read_text() == done.stdout
    page = done.stdout.strip().removeprefix("file://")
    assert page.startswith(str(tmp_path))
    text = Path(page).read_text()
    assert "&lt;b&gt;1" in text
    assert "state_sha256" in text


def test_without_a_browser_a_warning_names_the_path(tmp_path):
    code = (
        "import warnings, torch, medcam\n"
        "net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(1),\n"
        "                          torch.nn.Flatten())\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    page = medcam.explain(net, torch.rand(1, 1, 8, 8), target=1).show()\n"
        "assert any(f\"the report is '{page}'\" in str(one.message) for one in caught)\n"
    )
    env = {"BROWSER": "false", "TMPDIR": str(tmp_path), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)  # noqa: S603


def test_each_call_writes_a_new_page(tmp_path):
    explanation = medcam.explain(net := Classifier(3).eval(), image(3, 1))
    first, second = (explanation.show(browser=False) for _ in range(2))
    assert first != second
    other = explanation.show(np.ones((12, 12, 12)), browser=False, name="other")
    assert "<title>other" in other.read_text()
    with pytest.raises(InputError, match=r"show\(image\)"):
        dataclasses.replace(explanation, inputs=None).show(browser=False)
    assert net is explanation.model


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("layer", ["auto", "full"])
def test_notebooks_get_a_small_picture_without_a_script(dims, layer):
    net = balanced(UNet(dims), dims)
    size = 128 if dims == 2 else 24
    explanation = medcam.explain(
        net, image(dims, 2, size), layer=layer, method=["gcam", "gbp"], target=1
    )
    page = explanation._repr_html_()
    assert len(page) < 300_000
    tags = Tags(page)
    assert set(tags.tags) == {"div", "b", "img"}
    assert tags.attributes["src"].startswith("data:image/png;base64,")
    said = " ".join(tags.text)
    assert "Grad-CAM, Guided Backpropagation" in said
    assert "the first of 2 samples" in said
    assert str(explanation.target) in said
    assert str(explanation.target) in tags.attributes["alt"]
    drawn = np.asarray(picture(page)).astype(int)
    assert (np.ptp(drawn, axis=2) > 40).mean() > 0.01  # there are colours
    assert page == explanation._repr_html_()


def test_noise_everywhere_is_still_a_small_picture():
    generator = torch.Generator().manual_seed(0)
    net = balanced(UNet(2), 2)
    explanation = medcam.explain(
        net, torch.rand(1, 1, 256, 256, generator=generator), layer="full", target="all"
    )
    page = explanation._repr_html_()
    assert len(page) < 300_000
    left_out = 3 * len(explanation.maps) - 24
    assert left_out > 0
    assert f"{left_out} more maps" in page


def test_names_are_escaped():
    net = torch.nn.Sequential()
    net.add_module("<script>alert(1)</script>", torch.nn.Conv2d(1, 2, 3))
    net.add_module("pool", torch.nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", torch.nn.Flatten())
    explanation = medcam.explain(net, image(2, 1), target=1)
    page = explanation._repr_html_()
    assert set(Tags(page).tags) == {"div", "b", "img"}
    assert "<script>alert(1)</script>" in "".join(Tags(page).text)


def test_the_error_replaces_a_picture_that_cannot_be_drawn():
    explanation = medcam.explain(Classifier(3).eval(), image(3, 1))
    moved = dataclasses.replace(explanation, inputs=torch.zeros(1, 1, 3, 3))
    assert "it is unknown whether they cover the same region" in moved._repr_html_()
    bare = dataclasses.replace(explanation, inputs=None)._repr_html_()
    assert picture(bare).size[0] > 100


def test_one_sample_s_mask_is_not_spread_over_a_batch(tmp_path):
    explanation = medcam.explain(Classifier().eval(), image())
    with pytest.raises(MaskError, match=r"\[2, \*space\]"):
        explanation.save(tmp_path / "case", mask=torch.ones(1, 1, 12, 12))


@pytest.mark.parametrize("channels", [False, True])
def test_images_and_masks_of_nibabel_give_the_affine(channels, tmp_path):
    net, x = UNet(3).eval(), image(3, batch=1)
    values, affine = x[0, 0].numpy(), np.diag([0.5, 2.0, 3.0, 1.0])
    own = nibabel.Nifti1Image(values[..., None] if channels else values, affine)
    mask = nibabel.Nifti1Image((values > 0.5).astype(np.uint8), affine)
    paths = medcam.explain(net, x).save(tmp_path / "case", image=own, mask=mask)
    saved = {path.name: path for path in paths}
    np.testing.assert_allclose(nibabel.load(saved["case_layercam.nii.gz"]).affine, affine)
    written = np.asarray(nibabel.load(saved["case_mask.nii.gz"]).dataobj)
    np.testing.assert_array_equal(written, values > 0.5)
