"""The colours of an overlay are those of the image, whether it is RGB or OpenCV's BGR."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import medcam
from medcam.errors import InputError
from medcam.views.overlays import overlay
from support.nets import Classifier

ORANGE, BLUE, GREY = (255, 128, 0), (0, 0, 255), (90, 90, 90)


def picture() -> np.ndarray:
    """Return an RGB picture ``[8, 8, 3]`` of three coloured stripes."""
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[:, :3], rgb[:, 3:6], rgb[:, 6:] = ORANGE, BLUE, GREY
    return rgb


LAYOUTS = {
    "channels last": lambda raw: raw,
    "channels first": lambda raw: np.moveaxis(raw, 2, 0),
    "a batch": lambda raw: raw[None],
    "a tensor": lambda raw: torch.from_numpy(np.ascontiguousarray(np.moveaxis(raw, 2, 0)))[None],
}


def zero_map_picture(tmp_path, raw, **options) -> np.ndarray:
    """Return the PNG of an injected model's call; its map is zero, so the image is unchanged."""
    net = Classifier(classes=2).eval()
    with torch.no_grad():
        net.head.weight.zero_()
    model = medcam.inject(
        net, tmp_path / "out", layer="features.0", label=1, save_maps=True, **options
    )
    model(torch.rand(1, 1, 8, 8), raw_input=raw)
    assert not model.get_attention_map().any()
    return np.asarray(Image.open(tmp_path / "out/features.0/attention_map_0_0_0.png"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_colours_are_the_image_s(tmp_path, layout):
    rgb = picture()
    bgr = np.ascontiguousarray(rgb[..., ::-1])  # as cv2.imread returns it
    place = LAYOUTS[layout]
    assert np.array_equal(zero_map_picture(tmp_path, place(rgb)), rgb)
    assert np.array_equal(zero_map_picture(tmp_path, place(bgr), raw_input_order="bgr"), rgb)
    assert np.array_equal(zero_map_picture(tmp_path, place(bgr)), bgr)  # the default reads RGB


def test_grey_images_have_no_order(tmp_path):
    grey = picture()[..., 0]
    expected = zero_map_picture(tmp_path, grey)
    assert np.array_equal(zero_map_picture(tmp_path, grey, raw_input_order="bgr"), expected)
    many = np.stack([grey, grey + 1, grey, grey])  # the mean of four channels
    assert np.array_equal(
        zero_map_picture(tmp_path, many), zero_map_picture(tmp_path, many, raw_input_order="bgr")
    )


def test_the_map_s_own_colours_stay():
    values = np.linspace(0, 1, 64).reshape(8, 8)
    rgb = picture()
    expected = overlay(values, rgb)
    assert np.array_equal(overlay(values, rgb[..., ::-1], raw_input_order="bgr"), expected)
    assert np.array_equal(overlay(values, raw_input_order="bgr"), overlay(values))


def test_maps_of_one_s_own(tmp_path):
    rgb = picture()
    zero = np.zeros((8, 8))
    path = medcam.save(zero, tmp_path / "a", raw_input=rgb[..., ::-1], raw_input_order="bgr")
    assert np.array_equal(np.asarray(Image.open(path)), rgb)
    model = medcam.inject(Classifier().eval(), tmp_path, raw_input_order="bgr")
    path = model.save_attention_map(zero, rgb[..., ::-1])
    assert np.array_equal(np.asarray(Image.open(path)), rgb)


def test_an_order_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match=r"'gbr' does not exist.*'rgb'.*'bgr'"):
        medcam.inject(Classifier(), raw_input_order="gbr")
    with pytest.raises(InputError, match="'BGR' does not exist"):
        medcam.save(np.zeros((4, 4)), tmp_path / "a", raw_input_order="BGR")
