"""Fixtures for tests of pages: a headless Chromium, and reports opened in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from medcam.views.scene.values import Scene
    from support.viewing import Viewer


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield the system's Chromium, with a fresh profile."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Viewer]]:
    """Yield a function that opens a file offline; fail after the test if the page had problems."""
    from support.viewing import Viewer

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
    """Return a function that opens the report of a scene and waits until its data is unpacked."""

    from medcam.views.report import write_report

    def write_and_open(scene: Scene, **options: Any) -> Viewer:
        return visit(write_report(tmp_path / "report.html", scene), **options).ready()

    return write_and_open
