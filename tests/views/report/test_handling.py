"""Mouse, wheel, keys, touch and controls of a page."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from medcam.views.scene.values import Scene
from support.scenes import RAS, SHAPE, map_of, scene_2d, scene_3d, volume
from support.viewing import AXIAL, CORONAL, SAGITTAL, Viewer

Show = Callable[..., Viewer]
X, Y, Z = SHAPE


def test_a_click_and_a_drag_move_the_crosshair_in_all_planes(show: Show) -> None:
    viewer = show(scene_3d()).click(AXIAL, 3, 2)
    i, j, k = viewer.index()
    assert (i, j) == (X - 1 - 2, Y - 1 - 3)
    viewer.page.keyboard.press("ArrowDown" if k else "ArrowUp")  # what is clicked has the keys
    assert viewer.settle().index() == (i, j, k - 1 if k else 1)
    mouse = viewer.page.mouse
    mouse.move(*viewer.point(CORONAL, 1, 1))
    mouse.down()
    mouse.move(*viewer.point(CORONAL, 4, 6))
    assert viewer.settle().index() == (X - 1 - 6, j, Z - 1 - 4)
    mouse.move(5, 5)  # beyond the edge: the nearest voxel
    assert viewer.settle().index() == (X - 1, j, Z - 1)
    mouse.up()
    mouse.move(*viewer.point(CORONAL, 4, 6))
    assert viewer.settle().index() == (X - 1, j, Z - 1)


def test_wheel_arrows_and_page_keys_change_the_slice(show: Show) -> None:
    viewer = show(scene_3d()).click(AXIAL, 3, 2)
    i, j, _ = viewer.index()
    viewer.page.locator(".scroll").nth(AXIAL).fill("4")
    viewer.page.mouse.wheel(0, 120)
    viewer.page.wait_for_function("document.querySelector('.scroll').value === '3'")
    viewer.page.mouse.wheel(0, -120)
    viewer.page.wait_for_function("document.querySelector('.scroll').value === '4'")
    assert viewer.press(AXIAL, "ArrowUp", "ArrowRight", "ArrowUp").index() == (i, j, 7)
    assert viewer.press(AXIAL, "ArrowDown", "ArrowLeft").index() == (i, j, 5)
    assert viewer.press(CORONAL, "PageDown").index() == (i, max(j - 10, 0), 5)
    assert viewer.press(CORONAL, "PageUp").index() == (i, max(j - 10, 0) + 10, 5)


def test_shift_and_arrows_move_within_the_slice(show: Show) -> None:
    viewer = show(scene_3d()).click(AXIAL, 5, 5)
    i, j, k = viewer.index()
    # The patient's right is on the left of the screen, anterior is above.
    viewer.press(AXIAL, "Shift+ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowUp")
    assert viewer.index() == (i + 2, j + 1, k)
    viewer.press(SAGITTAL, "Shift+ArrowRight", "Shift+ArrowDown")
    assert viewer.index() == (i + 2, j, max(k - 1, 0))


def test_sliders_tell_their_slice(show: Show) -> None:
    viewer = show(scene_3d())
    scroll = viewer.page.locator(".scroll").nth(CORONAL)
    scroll.fill("9")
    assert viewer.settle().index()[1] == 9
    assert scroll.get_attribute("aria-valuetext") == "A 6.0 mm · j 9"
    scroll.press("ArrowLeft")
    assert viewer.settle().index()[1] == 8
    assert scroll.get_attribute("max") == str(Y - 1)


def test_a_finger_moves_the_crosshair(show: Show) -> None:
    viewer = show(scene_3d(), has_touch=True, size=(820, 1180))
    viewer.page.touchscreen.tap(*viewer.point(AXIAL, 2, 4))
    assert viewer.settle().index()[:2] == (X - 1 - 4, Y - 1 - 2)
    # A finger that is drawn over the picture moves it on, and the page does not scroll instead.
    session = viewer.context.new_cdp_session(viewer.page)
    for kind, place in (("touchStart", (2, 4)), ("touchMove", (6, 7)), ("touchMove", (9, 7))):
        x, y = viewer.point(AXIAL, *place)
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert viewer.settle().index()[:2] == (X - 1 - 7, Y - 1 - 9)
    assert viewer.page.evaluate("scrollY") == 0


@pytest.mark.parametrize("how", ["right button", "shift"])
def test_dragging_with_the_right_button_or_shift_windows(show: Show, how: str) -> None:
    viewer = show(scene_3d())
    at, mouse = viewer.index(), viewer.page.mouse
    x, y = viewer.point(AXIAL, 5, 5)
    button = "right" if how == "right button" else "left"
    mouse.move(x, y)
    if how == "shift":
        viewer.page.keyboard.down("Shift")
    mouse.down(button=button)
    mouse.move(x - 100, y - 50)
    mouse.up(button=button)
    viewer.page.keyboard.up("Shift")
    image = scene_3d().image
    low, high = np.percentile(image, (0.5, 99.5))
    # A pixel is a 500th of the image's range.
    assert float(viewer.text("#width-value")) == pytest.approx(high - low - 0.2, abs=0.01)
    assert float(viewer.text("#level-value")) == pytest.approx((low + high) / 2 - 0.1, abs=0.01)
    assert viewer.settle().index() == at
    assert viewer.page.locator("#preset").input_value() == "Own"
    viewer.choose("#preset", "Full range")
    assert float(viewer.text("#width-value")) == pytest.approx(1.0)


def test_readings_are_the_arrays_values(show: Show) -> None:
    rng = np.random.default_rng(3)
    image = rng.normal(50, 20, SHAPE).astype(np.float32)
    values = (3e-5 * rng.random(SHAPE)).astype(np.float32)
    viewer = show(Scene("Readings", image, [map_of(values)], affine=RAS))
    data = viewer.page.evaluate("JSON.parse(document.getElementById('scene').textContent)")
    steps = {"#image-value": data["image"]["step"], "#map-value": data["maps"][0]["step"]}
    assert steps["#map-value"] <= values.max() / 1000
    for row, column, scroll in ((0, 0, 0), (3, 7, 5), (13, 10, 8), (6, 2, 3)):
        viewer.page.locator(".scroll").nth(AXIAL).fill(str(scroll))
        at = viewer.click(AXIAL, row, column).index()
        for what, array in (("#image-value", image), ("#map-value", values)):
            half = steps[what] / 2 * (1 + 1e-6)
            assert abs(viewer.number(what) - array[at]) <= half
            assert abs(float(viewer.text(what)) - viewer.number(what)) <= steps[what] / 10
        place = [float(part) for part in viewer.text("#place").split(",")]
        np.testing.assert_allclose(place, (RAS @ [*at, 1])[:3], atol=0.051)
    viewer.page.click("#notes summary")
    assert "kept in steps of" in viewer.text("#step-note")


def test_whole_numbers_are_kept_exactly(show: Show) -> None:
    image = np.random.default_rng(0).integers(-1024, 3072, SHAPE).astype(np.int16)
    viewer = show(Scene("CT", image, affine=RAS, modality="CT"))
    assert viewer.text("#image-value") == f"{image[viewer.index()]} HU"
    viewer.click(CORONAL, 3, 3)
    assert viewer.text("#image-value") == f"{image[viewer.index()]} HU"
    presets = viewer.page.locator("#preset option").all_inner_texts()
    assert presets[:2] == ["Soft tissue", "Lung"]
    assert viewer.text("#level-value") == "40 HU"
    viewer.choose("#preset", "Lung")
    assert (viewer.text("#level-value"), viewer.text("#width-value")) == ("-600 HU", "1500 HU")


def test_layers_methods_and_targets_can_be_chosen_where_there_are_several(show: Show) -> None:
    names = [("A", "one", "x"), ("A", "two", "x"), ("A", "two", "y"), ("B", None, "x")]
    maps = [
        map_of(np.full(SHAPE, n + 1.0), method, layer=layer, target=target, units=f"unit {n}")
        for n, (method, layer, target) in enumerate(names)
    ]
    viewer = show(scene_3d(maps=maps))
    assert viewer.number("#map-value") == 1
    assert viewer.page.locator("#target").is_hidden()  # the layer "one" has one target
    viewer.choose("#layer", "two").choose("#target", "y")
    viewer.page.wait_for_function("document.getElementById('map-value').value === '3'")
    assert viewer.text("#units").startswith("unit 2, ")
    viewer.choose("#method", "B")
    viewer.page.wait_for_function("document.getElementById('map-value').value === '4'")
    assert viewer.page.locator("#layer").is_hidden()
    assert "the input" in viewer.text(".field:has(#layer)")
    viewer.choose("#method", "A")
    viewer.page.wait_for_function("document.getElementById('map-value').value === '1'")


def test_the_mask_is_outlined_until_it_is_switched_off(show: Show) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[3:8, 3:9, 2:7] = True
    viewer = show(scene_3d(mask=mask, maps=[]))
    viewer.page.uncheck("#crosshair")
    marks = viewer.settle().marks(AXIAL)
    rows, columns = np.nonzero(marks)
    pixel = marks.shape[1] / X  # of the screen, to a voxel
    edges = [columns.min() / pixel, (columns.max() + 1) / pixel]
    assert edges == pytest.approx([X - 8, X - 3], abs=0.1)
    edges = [rows.min() / marks.shape[0] * Y, (rows.max() + 1) / marks.shape[0] * Y]
    assert edges == pytest.approx([Y - 9, Y - 3], abs=0.1)
    inner = marks[round(marks.shape[0] * 6 / Y) : round(marks.shape[0] * 10 / Y)]
    assert not inner[:, round(4 * pixel) : round(7 * pixel)].any()  # a line, nothing within it
    assert viewer.text("#inside") == ("inside" if mask[viewer.index()] else "outside")
    viewer.page.uncheck("#show-mask")
    assert not viewer.settle().marks(AXIAL).any()


@pytest.mark.parametrize("lowest", [0, 1, 300])
def test_borders_of_the_predicted_labels_are_outlined_in_green(show: Show, lowest: int) -> None:
    labels = np.full(SHAPE, lowest)
    labels[3:8, 3:9, 2:7] = lowest + 1
    labels[3:8, 3:9, 4:7] = lowest + 2  # two labels side by side have a border, too
    viewer = show(scene_3d(segmentation=labels, mask=None, maps=[])).click(AXIAL, 6, 5)
    viewer.page.uncheck("#crosshair")
    marks = viewer.settle().colours(CORONAL)
    height, width = marks.shape[:2]
    column = marks[:, round((X - 5.5) / X * width), 3]
    for edge in (2, 4, 7):
        row = round((Z - edge) / Z * height)
        assert column[max(row - 2, 0) : row + 3].any()
        column[max(row - 3, 0) : row + 4] = 0
    beyond = (0, height) if lowest else ()  # the picture's own edge, where a label ends there
    for row in beyond:
        column[max(row - 3, 0) : row + 4] = 0
    assert not column.any()
    red, green, blue, _ = marks.reshape(-1, 4)[marks[..., 1].argmax()].astype(int)
    assert green > max(red, blue) + 50
    label = labels[viewer.index()]
    assert viewer.text("#predicted") == (f"label {label}" if label else "background")
    viewer.page.uncheck("#show-segmentation")
    assert not viewer.settle().marks(CORONAL).any()


def test_a_mask_that_covers_all_is_inside_everywhere(show: Show) -> None:
    viewer = show(scene_3d(mask=np.ones(SHAPE, bool)))
    assert viewer.text("#inside") == "inside"


def test_another_plane_can_be_enlarged_and_the_maximum_found(show: Show) -> None:
    values = volume(1) / 2
    values[2, 3, 4] = 1.0
    viewer = show(scene_3d(maps=[map_of(values)]))
    assert viewer.index() == (2, 3, 4)  # where the page opens
    viewer.click(AXIAL, 0, 0)
    viewer.page.click("#peak")
    assert viewer.settle().index() == (2, 3, 4)
    boxes = [pane.bounding_box() for pane in viewer.page.locator(".pane").all()]
    viewer.page.locator(".enlarge").nth(SAGITTAL).click()
    viewer.page.wait_for_timeout(50)
    assert viewer.settle().page.locator(".pane").nth(SAGITTAL).bounding_box() == boxes[AXIAL]
    viewer.click(SAGITTAL, 2, 5)  # places are right after the change
    assert viewer.index() == (2, Y - 1 - 5, Z - 1 - 2)


def test_a_picture_is_read_by_row_and_column(show: Show) -> None:
    scene = scene_2d()
    viewer = show(scene).click(2, 4, 11)
    assert viewer.index() == (4, 11)
    assert viewer.number("#image-value") == pytest.approx(scene.image[4, 11], abs=1e-3)
    assert viewer.number("#map-value") == pytest.approx(scene.maps[0].values[4, 11], abs=1e-3)
    assert viewer.press(0, "ArrowRight", "ArrowDown", "ArrowDown").index() == (6, 12)
    assert viewer.page.locator(".scroll, .enlarge, #place").count() == 0


def test_everything_has_a_name_and_tells_where_it_is(show: Show) -> None:
    viewer = show(scene_3d())
    unnamed = viewer.page.evaluate("""() => [...document.querySelectorAll("input, select, button")]
      .filter((one) => !one.labels?.length && !one.ariaLabel && !one.innerText.trim())
      .map((one) => one.outerHTML)""")
    assert unnamed == []
    viewer.click(AXIAL, 3, 2)
    label = viewer.page.locator(".slice").nth(AXIAL).get_attribute("aria-label") or ""
    assert viewer.text("#index") in label
    assert viewer.text("#map-value") in label
    assert viewer.text(".position") in label
    viewer.press(AXIAL, "ArrowUp")
    assert viewer.page.locator(".slice").nth(AXIAL).get_attribute("aria-label") != label


def test_a_screen_reader_passes_the_keys_on_and_says_where_they_led(show: Show) -> None:
    viewer = show(scene_3d())
    # of an application it hands the arrow keys on; a status it speaks when it changes
    tree = viewer.page.locator("body").aria_snapshot()
    assert tree.count('application "') == 3
    here = viewer.page.locator("[role=status]")
    assert here.get_attribute("aria-atomic") == "true"
    before = here.inner_text()
    viewer.press(AXIAL, "ArrowUp")
    after = here.inner_text()
    assert before != after
    assert viewer.text("#map-value") in after


def test_the_keyboard_reaches_everything_and_shows_where_it_is(show: Show) -> None:
    viewer = show(scene_3d())
    reached = []
    for _ in range(40):
        viewer.page.keyboard.press("Tab")
        name, outline = viewer.page.evaluate("""() => {
          const at = document.activeElement;
          const name = at === document.body ? "" : at.id || at.className || at.tagName;
          return [name, getComputedStyle(at).outlineStyle];
        }""")
        if not name:
            break
        assert outline != "none", name
        reached.append(name)
    assert reached.count("slice") == 3
    assert reached.count("scroll") == 3
    assert {"method", "peak", "opacity", "threshold", "show-map", "show-mask", "preset", "level",
            "width", "radiological", "smooth", "SUMMARY"} <= set(reached)  # fmt: skip
