"""Pages of the demo: every file is linked, and a browser opens the pages from disk."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest

TITLES = ["Grad-CAM", "Grad-CAM++", "Guided Backpropagation", "Guided Grad-CAM"]


class Links(HTMLParser):
    """The links and the sources of images in a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.sources = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "a":
            self.links.append(unquote(attributes["href"]))
        if "src" in attributes:
            self.sources.append(attributes["src"])


@pytest.fixture(scope="module")
def index(written):
    folder, _ = written
    return Links((folder / "index.html").read_text(encoding="utf-8"))


def test_the_index_leads_to_every_file(written, index):
    folder, _ = written
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(index.links) == paths - {"index.html"}


def test_the_index_holds_its_pictures(index):
    # the figure, and a thumbnail for each of the 16 and 8 slices and the head
    assert len(index.sources) == 1 + 16 + 8 + 1
    assert all(source.startswith("data:image/png;base64,") for source in index.sources)


@pytest.fixture
def page(browser):
    """An offline browser page: it may request files only, and report no problem on the console."""
    context = browser.new_context(offline=True, viewport={"width": 1366, "height": 768})
    page, problems, requests = context.new_page(), [], []
    page.set_default_timeout(60_000)
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    yield page
    context.close()
    assert problems == []
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}


def test_the_index_opens_from_disk_with_figure_and_style(written, page):
    folder, _ = written
    page.goto((folder / "index.html").as_uri())
    figure = page.locator(".gallery img")
    assert figure.evaluate("image => image.naturalWidth") > 1500
    assert page.locator("body").evaluate("body => getComputedStyle(body).maxWidth") == "1132px"
    assert page.evaluate("document.documentElement.scrollWidth") <= 1366
    assert page.locator("main table").count() == 3


def test_a_click_opens_the_page_of_an_image(written, page):
    folder, _ = written
    page.goto((folder / "index.html").as_uri())
    page.locator("a[href='lungs_2d/slice_4.html']").click()
    page.wait_for_selector("body.ready")
    assert page.url.endswith("lungs_2d/slice_4.html")
    assert page.locator("h1").inner_text() == "2D segmentation: slice 4"


def test_the_3d_page_has_three_planes_four_methods_and_the_mask(written, page):
    folder, _ = written
    page.goto((folder / "brain_3d" / "head.html").as_uri())
    page.wait_for_selector("body.ready")
    assert page.locator(".pane h2").all_inner_texts() == ["Axial", "Coronal", "Sagittal"]
    assert page.locator("#method option").all_inner_texts() == TITLES
    assert page.locator("#inside").inner_text() == "inside"
    assert page.locator("#predicted").inner_text() == "label 1"
    before = np.frombuffer(page.locator(".slice").first.screenshot(), np.uint8)
    page.select_option("#method", label="Guided Backpropagation")
    page.wait_for_function("document.getElementById('tick-low').innerText !== '0'")
    after = np.frombuffer(page.locator(".slice").first.screenshot(), np.uint8)
    assert before.tobytes() != after.tobytes()
