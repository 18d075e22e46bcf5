"""The painted pixels follow from the arrays, the window and the colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from medcam.views.scene.values import Scene
from support.scenes import RAS, SHAPE, map_of, rotated, scene_2d, scene_3d, stored_as, volume
from support.viewing import AXIAL, CORONAL, SAGITTAL, Viewer, blend, grey, on_screen, upright

Show = Callable[..., Viewer]
PLANES = (AXIAL, CORONAL, SAGITTAL)


def _window(image: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(image, (0.5, 99.5))
    return float(low), float(high)


def _peak(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(np.abs(values).argmax(), values.shape))


@pytest.mark.parametrize(
    "affine",
    [RAS, np.diag([-1.0, -1, 1, 1]), rotated(25), rotated(40, left_handed=True)],
    ids=["RAS", "LPS", "oblique", "oblique, left-handed"],
)
def test_each_plane_is_the_slice_with_the_map_over_it(show: Show, affine: np.ndarray) -> None:
    scene = scene_3d(affine)
    viewer = show(scene)
    image, values = upright(scene.image, affine), upright(scene.maps[0].values, affine)
    at = _peak(values)
    top = float(np.percentile(values[values > 0], 99.9))
    for plane in PLANES:
        expected = grey(on_screen(image, plane, at), *_window(image))
        expected = blend(expected, on_screen(values, plane, at), top=top)
        assert np.abs(viewer.pixels(plane) - expected).max() <= 2


def test_slices_follow_the_crosshair_everywhere(show: Show) -> None:
    stored, affine = stored_as(("P", "I", "R"), volume())
    scene = Scene("Case 7", stored, affine=affine)
    image = upright(stored, affine)
    viewer = show(scene)
    rng = np.random.default_rng(5)
    for _ in range(4):
        at = [int(rng.integers(extent)) for extent in image.shape]
        rows, columns = on_screen(image, AXIAL, at).shape
        viewer.page.locator(".scroll").nth(AXIAL).fill(str(at[2]))
        viewer.click(AXIAL, rows - 1 - at[1], columns - 1 - at[0])
        for plane in PLANES:
            expected = grey(on_screen(image, plane, at), *_window(image))
            assert np.abs(viewer.pixels(plane) - expected).max() <= 1


def test_signed_maps_are_symmetric_about_zero(show: Show) -> None:
    scene = scene_3d(maps=[scene_3d().maps[1]])
    values = scene.maps[0].values
    top = float(np.percentile(np.abs(values[values != 0]), 99.9))
    viewer, at = show(scene), _peak(values)
    expected = grey(on_screen(scene.image, CORONAL, at), *_window(scene.image))
    expected = blend(expected, on_screen(values, CORONAL, at), top=top, signed=True)
    assert np.abs(viewer.pixels(CORONAL) - expected).max() <= 2
    assert viewer.text("#tick-low").startswith("-")
    assert viewer.text("#tick-middle") == "0"


def test_opacity_threshold_and_window_repaint(show: Show) -> None:
    scene = scene_3d()
    values = scene.maps[0].values
    at, top = _peak(values), float(np.percentile(values[values > 0], 99.9))
    viewer = show(scene)
    viewer.slide("#opacity", 90).slide("#threshold", 500)
    expected = grey(on_screen(scene.image, AXIAL, at), *_window(scene.image))
    shown = on_screen(values, AXIAL, at)
    expected = blend(expected, shown, top=top, opacity=0.9, threshold=0.5 * top)
    assert np.abs(viewer.pixels(AXIAL) - expected).max() <= 2
    opaque = viewer.bar()[..., 3] == 255  # the colour bar leaves out what is hidden
    assert opaque.tolist() == [[False] * 128 + [True] * 128]

    viewer.page.uncheck("#show-map")
    viewer.slide("#level", 300).slide("#width", 400)
    expected = grey(on_screen(scene.image, AXIAL, at), 0.1, 0.5)
    assert np.abs(viewer.settle().pixels(AXIAL) - expected).max() <= 2


def test_other_maps_are_painted_when_they_are_chosen(show: Show) -> None:
    scene = scene_3d()
    values, at = scene.maps[1].values, _peak(scene.maps[0].values)
    viewer = show(scene).choose("#method", "Guided Backpropagation")
    viewer.page.wait_for_function("document.getElementById('map-value').textContent !== '–'")
    top = float(np.percentile(np.abs(values[values != 0]), 99.9))
    expected = grey(on_screen(scene.image, AXIAL, at), *_window(scene.image))
    expected = blend(expected, on_screen(values, AXIAL, at), top=top, signed=True)
    assert np.abs(viewer.settle().pixels(AXIAL) - expected).max() <= 2


def test_a_picture_has_image_map_and_overlay_side_by_side(show: Show) -> None:
    from matplotlib import colormaps

    scene = scene_2d()
    values = scene.maps[0].values
    top = float(np.percentile(values[values > 0], 99.9))
    viewer = show(scene)
    image = grey(scene.image, *_window(scene.image))
    assert np.abs(viewer.pixels(0) - image).max() <= 1
    alone = colormaps["inferno"]((values / top).clip(0, 1), bytes=True)[..., :3]
    assert np.abs(viewer.pixels(1).astype(int) - alone).max() <= 5  # one entry of the table
    assert (np.abs(viewer.pixels(1).astype(int) - alone) <= 2).mean() > 0.98
    assert np.abs(viewer.pixels(2) - blend(image, values, top=top)).max() <= 2


def test_colours_of_a_photograph_stay(show: Show) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    viewer = show(Scene("Photo", photo, [map_of(np.zeros((9, 13)))]))
    assert (viewer.pixels(0) == photo).all()
    assert (viewer.pixels(2) == photo).all()  # a map of zeros leaves it untouched
    viewer.click(0, 2, 3)
    assert viewer.text("#image-value") == " ".join(str(value) for value in photo[2, 3])


def test_values_that_are_no_numbers_are_black(show: Show) -> None:
    image = volume()
    image[5, 7, 4] = np.nan
    image[4, 7, 4] = np.inf
    viewer = show(Scene("Gaps", image, affine=RAS))
    assert viewer.index() == (5, 7, 4)
    assert viewer.text("#image-value") == "not a number"
    expected = grey(
        np.nan_to_num(on_screen(image, AXIAL, (5, 7, 4)), posinf=0),
        *_window(image[np.isfinite(image)]),
    )
    assert np.abs(viewer.pixels(AXIAL) - expected).max() <= 1


def test_the_shape_is_shown_in_millimetres(show: Show) -> None:
    viewer = show(scene_3d())
    for plane, (across, down) in enumerate(((0, 1), (0, 2), (1, 2))):
        box = viewer.page.locator(".slice").nth(plane).bounding_box()
        spacing = np.diag(RAS)
        expected = SHAPE[across] * spacing[across] / (SHAPE[down] * spacing[down])
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(expected, rel=0.01)
