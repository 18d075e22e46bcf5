"""A large volume is shown and scrolled without delay."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medcam.views.report import write_report
from medcam.views.scene.values import Scene, SceneMap
from support.viewing import AXIAL, SAGITTAL, Viewer

Visit = Callable[..., Viewer]
SIDE = 256

_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report of a noisy 256³ volume and a smooth map."""
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    inside = x**2 / 0.6 + y**2 / 0.9 + z**2 / 0.7 < 1
    image = inside * (300 + 200 * np.cos(6 * x) * np.sin(5 * y)) + rng.normal(0, 10, (SIDE,) * 3)
    values = np.exp(-8 * ((x - 0.2) ** 2 + y**2 + (z + 0.1) ** 2))
    shown = SceneMap(values.astype(np.float32), "Grad-CAM")
    scene = Scene("Large", image.astype(np.float32), [shown], affine=np.eye(4))
    return write_report(tmp_path_factory.mktemp("large") / "large.html", scene)


def test_a_256_cubed_volume_is_painted_at_once(visit: Visit, large: Path) -> None:
    viewer = visit(large).ready()
    first = viewer.page.evaluate(_PAINT)
    megabytes = large.stat().st_size / 1e6
    whole = viewer.page.evaluate("performance.now()")
    print(f"256³: {megabytes:.0f} MB; first paint {first:.0f} ms, unpacked {whole:.0f} ms")  # noqa: T201
    assert first < 3000
    assert megabytes < 60


def test_a_256_cubed_volume_scrolls_smoothly(visit: Visit, large: Path) -> None:
    viewer = visit(large).ready()
    start = time.perf_counter()
    before = viewer.pixels(AXIAL)
    viewer.press(AXIAL, *["ArrowUp"] * 10)
    seconds = (time.perf_counter() - start) / 10
    assert (viewer.pixels(AXIAL) != before).any()
    assert viewer.pixels(SAGITTAL).shape == (SIDE, SIDE, 3)
    assert seconds < 1.0


def test_maps_of_larger_volumes_are_halved_and_it_is_said(visit: Visit, tmp_path: Path) -> None:
    image = np.zeros((301, 300, 200), np.int16)
    image[100:200, 100:200, 50:150] = 5
    values = np.zeros(image.shape, np.float32)
    values[120:122, 110:112, 60:62] = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    scene = Scene("Larger", image, [SceneMap(values, "Grad-CAM")], affine=np.eye(4))
    viewer = visit(write_report(tmp_path / "a.html", scene)).ready()
    assert viewer.index() == (121, 111, 61)
    assert viewer.number("#map-value") == pytest.approx(values[120:122, 110:112, 60:62].mean())
    viewer.press(AXIAL, "ArrowUp")
    assert viewer.number("#map-value") == 0
    viewer.page.click("#notes summary")
    assert "half its resolution" in viewer.text("#notes")
