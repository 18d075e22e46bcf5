"""Names stay text, nothing is fetched, and a page states what it cannot show."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medcam.views.report import IndexEntry, index_entry, render_report, write_index, write_report
from support.checks import check_record, checked_map
from support.scenes import RAS, SHAPE, map_of, scene_2d, scene_3d, volume
from support.viewing import Viewer

Show = Callable[..., Viewer]
Visit = Callable[..., Viewer]

HOSTILE = "<script>alert(1)</script>"
NAMES = [
    HOSTILE,
    "</script><img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>&amp;",
    "-->{{ 7 * 7 }}\u2028\u2029</title><!--",
    "Füße 心臓 \u202e\ud800 \x00",
]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_stay_text(show: Show, name: str) -> None:
    scene = scene_3d(
        maps=[map_of(volume(1), name, layer=name, target=name, units=name)] * 2,
        scores=[{name: name, "dice": 0.5}],
        provenance={name: {name: [name]}},
        modality=name,
    )
    object.__setattr__(scene, "name", name)
    viewer = show(scene)
    seen = name.replace("\ud800", "?").replace("\x00", "")
    shown = viewer.page.evaluate("document.querySelector('h1').textContent")
    assert shown == seen
    assert seen in viewer.page.evaluate("document.querySelector('tbody td').textContent")
    assert seen in viewer.page.evaluate("document.querySelector('#provenance dd').textContent")
    # Through JSON, names come whole.
    texts = viewer.page.evaluate("[...document.querySelectorAll('.only')].map(e => e.textContent)")
    assert texts == [name] * 3
    assert viewer.page.evaluate("document.querySelectorAll('img:not(.preview), h1 *').length") == 0


def test_hostile_names_stay_text_in_the_index(visit: Visit, tmp_path: Path) -> None:
    scene = scene_2d(scores=[{HOSTILE: HOSTILE}])
    object.__setattr__(scene, "name", HOSTILE)
    entries = [index_entry(scene, "a b#c?.html"), IndexEntry(HOSTILE, error=HOSTILE)]
    write_report(tmp_path / "a b#c?.html", scene_2d())
    viewer = visit(write_index(tmp_path / "index.html", entries, title=HOSTILE))
    assert viewer.text("tbody a:not(:has(img))") == HOSTILE
    assert viewer.text(".error") == HOSTILE
    viewer.page.click("tbody a:not(:has(img))")  # leads to the page, whatever its name
    viewer.page.wait_for_selector("body.ready")
    assert viewer.text("h1") == "Picture 7"


def test_the_policy_stops_what_is_not_ours(visit: Visit, tmp_path: Path) -> None:
    page = render_report(scene_2d())
    path = tmp_path / "changed.html"
    foreign = (
        "<script>window.ours = 1</script><p style='color: red' onclick='window.ours = 1'>x</p>"
        "<img src='https://example.org/a.png'><link rel=stylesheet href='https://example.org/a.css'>"
    )
    path.write_text(page.replace("<main>", f"<main>{foreign}"), encoding="utf-8")
    viewer = visit(path).ready()
    viewer.page.click("main > p")
    assert viewer.page.evaluate("window.ours") is None
    refused = [text for text in viewer.problems if "Content Security Policy" in text]
    assert len(refused) == 5  # script, style, handler, image, style sheet
    viewer.problems.clear()


def test_a_page_holds_all_it_needs() -> None:
    page = render_report(scene_3d())
    assert re.findall(r"""(?:src|href)=["']?(?!data:)[^"' >]+""", page) == []
    assert re.findall(r"https?:", page) == []
    assert "unsafe" not in page


def test_equal_cases_give_equal_pages() -> None:
    assert render_report(scene_3d()) == render_report(scene_3d())


def test_an_old_browser_keeps_the_pictures_and_says_why(visit: Visit, tmp_path: Path) -> None:
    path = write_report(tmp_path / "a.html", scene_3d())
    viewer = visit(path, before="delete window.DecompressionStream")
    viewer.page.wait_for_selector("#message", state="visible")
    assert "Firefox 113" in viewer.text("#message")
    assert viewer.page.locator(".preview").first.is_visible()


def test_an_incomplete_file_says_so(visit: Visit, tmp_path: Path) -> None:
    page = render_report(scene_3d())
    cut = page.index('id="map-0"') + 500
    (tmp_path / "a.html").write_text(page[:cut], encoding="utf-8")
    viewer = visit(tmp_path / "a.html")
    viewer.page.wait_for_selector("#message", state="visible")
    assert "may be incomplete" in viewer.text("#message")
    assert viewer.page.locator(".preview").first.is_visible()


def test_without_scripts_the_pictures_are_there(visit: Visit, tmp_path: Path) -> None:
    viewer = visit(write_report(tmp_path / "a.html", scene_3d()), java_script_enabled=False)
    assert "runs no scripts" in viewer.text("noscript")
    sizes = [one.bounding_box() for one in viewer.page.locator(".preview").all()]
    assert all(size and size["width"] > 100 for size in sizes)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["volume", "picture", "checked", "index"])
def test_text_stands_out_from_its_ground(
    visit: Visit, tmp_path: Path, scheme: str, kind: str
) -> None:
    if kind == "index":
        entries = [
            index_entry(scene_2d(scores=[{"dice": 0.5}]), "a.html"),
            IndexEntry("b", error="c"),
        ]
        path = write_index(tmp_path / "index.html", entries)
    else:
        scene = scene_2d() if kind == "picture" else scene_3d()
        if kind == "checked":
            check = check_record(checked_map("Grad-CAM", "layer4", "fails", used=False))
            scene = dataclasses.replace(scene, check=check)
        path = write_report(tmp_path / "a.html", scene)
    viewer = visit(path, color_scheme=scheme)
    for fold in viewer.page.locator("summary").all():
        fold.click()
    assert viewer.page.locator("#verdict[data-bad]").count() == (kind == "checked")
    measured = viewer.page.evaluate(_CONTRASTS)
    assert len(measured) > 10
    assert [text for text, contrast in measured if contrast < 4.5] == []


# Each element with text of its own, and the contrast (WCAG 2) of its colour with the nearest
# background that is set.
_CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility() && !one.closest("script, noscript, option"))
    .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((one) => {
      const pair = [light(parse(getComputedStyle(one).color)), light(ground(one))].sort();
      const [dark, bright] = pair[0] < pair[1] ? pair : pair.reverse();
      return [one.outerHTML.slice(0, 80), (bright + 0.05) / (dark + 0.05)];
    });
}"""


def test_the_planes_fit_the_first_screen(show: Show) -> None:
    viewer = show(scene_3d())
    for width, height in ((1366, 768), (1366, 640), (1920, 1080)):
        viewer.page.set_viewport_size({"width": width, "height": height})
        boxes = [pane.bounding_box() for pane in viewer.settle().page.locator(".pane").all()]
        assert all(box and box["y"] + box["height"] <= height for box in boxes)
        assert all(box and box["height"] > 200 for box in boxes)


@pytest.mark.parametrize("kind", ["volume", "picture"])
def test_nothing_is_wider_than_a_small_screen(show: Show, kind: str) -> None:
    viewer = show(scene_3d() if kind == "volume" else scene_2d())
    for width, height in ((820, 1180), (1180, 820), (390, 844)):
        viewer.page.set_viewport_size({"width": width, "height": height})
        assert viewer.settle().page.evaluate("document.documentElement.scrollWidth") <= width


def test_odd_cases_open(show: Show) -> None:
    assert show(scene_3d(maps=[], mask=None, scores=[], provenance={})).text("h1") == "Case 7"
    constant = scene_3d(maps=[map_of(np.zeros(SHAPE))])
    object.__setattr__(constant, "image", np.full(SHAPE, 0.37))
    viewer = show(constant)
    assert float(viewer.text("#image-value")) == 0.37
    assert viewer.text("#map-value") == "0.00000" or float(viewer.text("#map-value")) == 0
    assert viewer.index() == tuple(extent // 2 for extent in SHAPE)
    two = show(type(constant)("Two values", volume() > 0.5, affine=RAS))
    assert {two.text("#image-value")} <= {"0", "1"}
    thin = np.arange(20.0).reshape(4, 5, 1)
    viewer = show(type(constant)("Thin", thin, affine=np.eye(4)))
    assert viewer.pixels(0).shape == (5, 4, 3)
