"""One headless Chromium for all tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from medcam.views.report import ReportCase, write_report

from .viewing import Viewer

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The system's Chromium, with a fresh profile."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        missing = "Pages are tested in Chromium: apt-get install chromium, or Google Chrome."
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Viewer]]:
    """Opens a file from disk without a network; after the test, nothing may have gone wrong."""
    opened: list[Viewer] = []

    def open_file(path: Path, **options: Any) -> Viewer:
        viewer = Viewer(browser, path, **options)
        opened.append(viewer)
        return viewer

    yield open_file
    for viewer in opened:
        viewer.close()
    for viewer in opened:
        assert viewer.problems == []
        assert {url.split(":")[0] for url in viewer.requests} <= {"file", "data"}


@pytest.fixture
def show(visit: Callable[..., Viewer], tmp_path: Path) -> Callable[..., Viewer]:
    """Writes the report of a case, opens it and waits until its data is unpacked."""

    def write_and_open(case: ReportCase, **options: Any) -> Viewer:
        return visit(write_report(tmp_path / "case.html", case), **options).ready()

    return write_and_open
