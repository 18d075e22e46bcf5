"""Contents of a page: windows, tables and names of maps; and the errors of unfit scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import medcam
from medcam.errors import InputError, MaskError, SaveError
from medcam.views.report import index_entry, render_report, write_report
from medcam.views.report.page import previews_of
from medcam.views.report.pictures import draw_slice
from medcam.views.scene.grey_windows import GreyWindow, grey_windows, is_ct
from medcam.views.scene.grid import picture_grid, volume_grid
from medcam.views.scene.maps import scene_maps
from medcam.views.scene.values import Scene, SceneMap
from support.scenes import RAS, SHAPE, map_of, scene_2d, scene_3d, volume
from support.viewing import AXIAL, blend, grey, on_screen


def test_ct_opens_with_the_windows_of_ct() -> None:
    air, tissue = np.full(500, -1000.0), np.linspace(-200, 1200, 500)
    image = np.concatenate([air, tissue]).reshape(10, 10, 10)
    for modality in ("CT", "ct", None):
        windows = grey_windows(image, modality=modality)
        assert windows[0] == GreyWindow("Soft tissue", -160, 240)
        assert windows[1] == GreyWindow("Lung", -1350, 150)
        assert windows[-1] == GreyWindow("Full range", -1000, 1200)
    assert [window.name for window in grey_windows(image, modality="MR")] == [
        "Automatic",
        "Full range",
    ]


def test_images_without_air_are_not_taken_for_ct() -> None:
    assert not is_ct(np.linspace(-3, 3, 1000), modality=None)
    assert not is_ct(np.linspace(0, 4095, 1000), modality=None)
    assert not is_ct(np.full(10, -1000.0), modality=None)


def test_pictures_of_bytes_or_shares_keep_their_colours() -> None:
    photo = np.random.default_rng(0).integers(30, 90, (5, 6, 3))
    assert grey_windows(photo.astype(np.uint8), modality=None)[0] == GreyWindow("As stored", 0, 255)
    assert grey_windows(photo / 255, modality=None)[0] == GreyWindow("As stored", 0, 1)
    assert grey_windows(photo * 1.0, modality=None)[0].name == "Automatic"


def test_an_image_of_one_value_or_of_none_has_a_window() -> None:
    for image in (np.full((3, 3), 7.0), np.full((3, 3), np.nan)):
        for window in grey_windows(image, modality=None):
            assert window.low < window.high


def test_the_picture_drawn_ahead_is_the_slice_with_the_map() -> None:
    scene = scene_3d()
    grid, at, window = volume_grid(SHAPE, RAS), (4, 5, 6), GreyWindow("", 0.2, 0.7)
    drawn = draw_slice(grid.planes[AXIAL], grid, at, scene.image, window, scene.maps[0])
    expected = grey(on_screen(scene.image, AXIAL, at), 0.2, 0.7)
    shown = on_screen(scene.maps[0].values, AXIAL, at)
    expected = blend(expected, shown, top=scene.maps[0].scale_top)
    assert np.abs(drawn - expected).max() <= 1
    assert len(set(previews_of(scene, side=64))) == 3


def test_the_map_drawn_ahead_is_the_map_alone() -> None:
    from matplotlib import colormaps

    scene = scene_2d()
    grid, values = picture_grid(scene.space), scene.maps[0].values
    window = GreyWindow("", 0.0, 1.0)
    alone, image = (
        draw_slice(grid.planes[n], grid, (0, 0, 0), scene.image, window, scene.maps[0])
        for n in (1, 0)
    )
    colours = colormaps["inferno"]((values / scene.maps[0].scale_top).clip(0, 1), bytes=True)
    assert (alone == colours[..., :3]).all()
    assert (image == grey(scene.image, 0.0, 1.0)).all()


def test_a_scale_for_all_cases_is_said() -> None:
    own, common = map_of(volume(1)), map_of(volume(1), top=5.0)
    assert own.scale_top == pytest.approx(1.0)
    assert common.scale_top == 5.0
    assert "to the 99.9th percentile" in render_report(scene_3d(maps=[own]))
    assert "one scale for all cases" in render_report(scene_3d(maps=[common]))
    with pytest.raises(InputError, match="above 0"):
        map_of(volume(1), top=0.0)


def test_maps_of_an_explanation_are_named() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 3, 3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )
    images = torch.rand(2, 1, 16, 20)
    explanation = medcam.explain(net, images, method=["gcam", "gbp"], target="all")
    shown = scene_maps(explanation.maps.values(), sample=1)
    assert [(one.method, one.target) for one in shown] == [
        (method, f"class {number}")
        for method in ("Grad-CAM", "Guided Backpropagation")
        for number in range(3)
    ]
    assert [one.signed for one in shown] == [False] * 3 + [True] * 3
    assert shown[0].units == "raw Grad-CAM units"
    assert (shown[-1].layer, shown[0].layer) == (None, "1")
    expected = explanation.maps["gbp", None].values[1, 2].numpy()
    assert (shown[5].values == expected).all()
    larger = scene_maps(explanation.maps.values(), sample=1, shape=(32, 40))
    assert larger[0].values.shape == (32, 40)


def test_the_predicted_class_is_named() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1))
    net.append(torch.nn.Flatten())
    images = torch.rand(1, 1, 16, 20)
    shown = scene_maps(medcam.explain(net, images).maps.values())
    predicted = int(net(images).argmax())
    assert shown[0].target.endswith(f": class {predicted}")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"maps": [map_of(volume(1)[:-1])]}, InputError, "bring it to the image's grid"),
        ({"mask": np.ones((3, 3, 3))}, MaskError, "must be equal"),
        ({"mask": volume() * 2}, MaskError, "not 0/1"),
        ({"segmentation": np.ones((3, 3, 3))}, MaskError, "segmentation is .* must be equal"),
        ({"segmentation": volume()}, MaskError, "does not hold labels"),
        ({"segmentation": volume(3).round() - 1}, MaskError, "whole numbers from 0"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        scene_3d(**change)


def test_images_of_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[H, W, 3\]"):
        Scene("a", np.zeros((2, 2, 2, 2)))
    with pytest.raises(InputError, match="no affine"):
        Scene("a", np.zeros((2, 2)), affine=np.eye(4))
    with pytest.raises(InputError, match="NaN"):
        SceneMap(np.array([[np.nan]]), "Grad-CAM")


def test_three_slices_with_an_affine_are_a_volume() -> None:
    assert Scene("a", np.zeros((4, 5, 3)), affine=np.eye(4)).is_volume
    assert not Scene("a", np.zeros((4, 5, 3))).is_volume


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(SaveError):
        write_report(tmp_path / "file" / "a.html", scene_2d())
    assert (tmp_path / "file").read_text() == "old"


def test_a_case_without_scores_lists_its_maps_in_the_index() -> None:
    shown = SceneMap(np.ones((3, 4), np.float32), "Grad-CAM", "conv")
    entry = index_entry(Scene("a", np.zeros((3, 4)), [shown]), "a.html")
    assert entry.scores == [{"method": "Grad-CAM", "layer": "conv"}]
    scored = Scene("a", np.zeros((3, 4)), [shown], scores=[{"dice": 0.5}])
    assert index_entry(scored, "a.html").scores == [{"dice": 0.5}]
