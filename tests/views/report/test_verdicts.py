"""The map that a page opens on, and the verdict beside the map that is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medcam.views.report.opening import first_map
from medcam.views.report.page import previews_of, render_report
from medcam.views.scene.values import Scene
from support.checks import check_record, checked_map
from support.scenes import SHAPE, map_of, scene_2d, scene_3d
from support.viewing import Viewer

Show = Callable[..., Viewer]

SHOWN = [("A", "one"), ("A", "two"), ("B", "one"), ("B", "two"), ("C", None)]
"""Methods and layers of the maps on a page."""


def maps(target: str = "class 1", shape: tuple[int, ...] = SHAPE) -> list[Any]:
    """Return a map for each name, with its maximum, its number from 1, at another voxel."""
    made = []
    for number, (title, layer) in enumerate(SHOWN):
        values = np.full(shape, 0.1)
        values[(number + 1, *[2] * (len(shape) - 1))] = number + 1
        made.append(map_of(values, title, layer=layer, target=target))
    return made


def record(*words: str, recommended: int | None = None, unused: int | None = None) -> Any:
    """Return a check of the first maps with these verdicts."""
    items = [
        checked_map(*name, word=word, used=number != unused)  # type: ignore[arg-type]
        for number, (name, word) in enumerate(zip(SHOWN, words, strict=False))
    ]
    return check_record(*items, recommended=recommended)


OPENINGS = {
    "recommended": (record("passes", "fails", "passes", "passes", recommended=3), 3),
    "of the input": (record("passes", "fails", "fails", "fails", "passes", recommended=4), 4),
    "first that passes": (record("fails", "undecided", "passes", "passes"), 2),
    "first of a layer in use": (record("fails", "passes", "fails", "passes", unused=1), 3),
    "none passes": (record("fails", "fails", "no better than the image"), 0),
    "no check": ({}, 0),
}


@pytest.mark.parametrize("name", OPENINGS)
@pytest.mark.parametrize("scene_of", [scene_2d, scene_3d])
def test_a_page_opens_on_the_map_to_use(show: Show, name: str, scene_of: Any) -> None:
    check, first = OPENINGS[name]
    shape = SHAPE if scene_of is scene_3d else (12, 17)
    scene = scene_of(maps=maps(shape=shape), check=check)
    viewer = show(scene)
    title, layer = SHOWN[first]
    assert viewer.page.locator("#method").input_value() == title
    assert viewer.page.locator("#layer").input_value() == (layer or "the input")
    assert viewer.number("#map-value") == first + 1  # at its maximum
    assert viewer.index()[0] == first + 1
    alone = scene_of(maps=[scene.maps[first]])
    assert previews_of(scene, side=64) == previews_of(alone, side=64)
    viewer.choose("#method", "A").choose("#layer", "one")  # the others can still be chosen
    viewer.choose("#method", "B")
    viewer.page.click("#peak")
    assert viewer.settle().number("#map-value") == 3


def test_a_recommended_map_that_is_not_on_the_page() -> None:
    check = record("passes", "fails", "passes", "passes", recommended=0)
    assert first_map(scene_3d(maps=maps()[1:], check=check)) == 1
    assert first_map(scene_3d(maps=[], check=check)) == 0


def test_maps_of_another_class_were_not_checked() -> None:
    check = record("fails", "passes", recommended=1)
    other, same = maps("class 12: class 12"), maps("class 1, over the voxels predicted as such")
    assert first_map(scene_3d(maps=[*other, *same], check=check)) == len(other) + 1
    assert first_map(scene_3d(maps=other, check=check)) == 0
    assert first_map(scene_3d(maps=maps("a function"), check=check)) == 1


def test_the_thumbnail_of_a_signal_has_the_map_to_use() -> None:
    signal = np.random.default_rng(0).normal(size=(2, 50))
    items = maps(shape=(50,))
    check = record("fails", "fails", "passes", recommended=2)

    def thumbnail(shown: list[Any], **more: Any) -> list[str]:
        return previews_of(Scene("a", signal, shown, is_signal=True, **more), side=64)

    assert thumbnail(items, check=check) == thumbnail(items[2:3]) != thumbnail(items)


def verdict(viewer: Viewer) -> str:
    return " ".join(viewer.settle().text("#verdict").split())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_verdict_of_the_shown_map_stands_beside_the_selectors(show: Show, scheme: str) -> None:
    check = record("fails", "no better than the image", "passes", "passes", recommended=2, unused=3)
    viewer = show(scene_3d(maps=maps(), check=check), color_scheme=scheme)
    said = "Verdict of this map: "
    colour = "getComputedStyle(document.getElementById('verdict')).color"
    plain = viewer.page.evaluate(colour)
    assert verdict(viewer) == f"{said}✓ passes, recommended"
    viewer.choose("#layer", "two")
    assert verdict(viewer) == f"{said}✓ passes, but the prediction hardly uses this layer"
    assert viewer.page.evaluate(colour) == plain
    viewer.choose("#method", "A")
    assert verdict(viewer) == f"{said}≈ no better than the image"
    assert viewer.page.evaluate(colour) != plain
    viewer.choose("#layer", "one")
    assert verdict(viewer) == f"{said}✕ fails"
    viewer.choose("#method", "C")
    assert verdict(viewer) == f"{said}not checked"
    assert viewer.page.evaluate(colour) == plain


def test_a_screen_reader_says_the_verdict_when_another_map_is_chosen(show: Show) -> None:
    check = record("fails", "passes", "passes")
    viewer = show(scene_2d(maps=maps(shape=(12, 17)), check=check))
    status = viewer.page.locator("#verdict")
    assert (status.get_attribute("role"), status.get_attribute("aria-atomic")) == ("status", "true")
    assert viewer.page.get_by_role("status").all_inner_texts()[0].strip() == status.inner_text()
    snapshot = status.aria_snapshot()
    assert "Verdict of this map: passes" in snapshot
    assert "✓" not in snapshot
    viewer.choose("#layer", "one")
    assert "Verdict of this map: fails" in status.aria_snapshot()


def test_the_verdict_leads_to_the_section(show: Show) -> None:
    viewer = show(scene_3d(maps=maps(), check=record("fails", "passes")))
    link = viewer.page.get_by_role("link", name="Verdict: those on all maps")
    assert link.get_attribute("href") == "#title-trust"
    link.click()
    viewer.page.wait_for_function("scrollY > 0")
    box = viewer.page.locator("#title-trust").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 768


def test_without_a_check_there_is_no_verdict(show: Show) -> None:
    viewer = show(scene_3d(maps=maps()))
    assert viewer.page.locator("#verdict, .verdict").count() == 0
    assert "not checked" not in viewer.text("#controls")
    assert 'id="verdict"' not in render_report(scene_3d(maps=[], check=record("fails")))


@pytest.mark.parametrize("scene_of", [scene_2d, scene_3d])
def test_no_verdict_is_wider_than_a_small_screen(show: Show, scene_of: Any) -> None:
    shape = SHAPE if scene_of is scene_3d else (12, 17)
    check = record("no better than the image", "fails", "passes", unused=1)
    viewer = show(scene_of(maps=maps(shape=shape), check=check), size=(400, 800))
    for layer in ("one", "two"):
        viewer.choose("#method", "A").choose("#layer", layer)
        assert viewer.page.evaluate("document.documentElement.scrollWidth") <= 400
        for part in ("#verdict", ".verdict a"):
            beyond = "(element) => element.scrollWidth - element.clientWidth"
            assert viewer.page.locator(part).evaluate(beyond) <= 0
            box = viewer.page.locator(part).bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= 400
