"""A report in a browser: read its pictures and texts, and operate it like a user."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray
from playwright.sync_api import Browser, Request

AXIAL, CORONAL, SAGITTAL = 0, 1, 2

_READ = """([kind, number]) => {
  const slice = document.querySelectorAll(kind)[number];
  const copy = new OffscreenCanvas(slice.width, slice.height)
    .getContext("2d", { willReadFrequently: true });  // the page's own canvas would log a warning
  copy.drawImage(slice, 0, 0);
  const { data } = copy.getImageData(0, 0, slice.width, slice.height);
  let text = "";
  for (const value of data) text += String.fromCharCode(value);
  return [slice.height, slice.width, btoa(text)];
}"""
_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Viewer:
    """An open page.

    Attributes:
        page: Playwright's page.
        problems: The errors and warnings of the console, including violations of the policy.
        requests: The addresses requested, without those that the policy blocked.
    """

    def __init__(
        self,
        browser: Browser,
        path: Path,
        *,
        size: tuple[int, int] = (1366, 768),
        before: str = "",
        **options: Any,
    ) -> None:
        width, height = size
        self.context = browser.new_context(
            offline=True, viewport={"width": width, "height": height}, **options
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", self._forget_blocked)
        if before:
            self.page.add_init_script(before)
        self.page.goto(path.as_uri())

    def ready(self) -> Viewer:
        """Wait until the data is unpacked and painted."""
        self.page.wait_for_selector("body.ready")
        return self.settle()

    def settle(self) -> Viewer:
        """Wait until the last change is painted."""
        self.page.evaluate(_FRAMES)
        return self

    def close(self) -> None:
        self.context.close()

    def pixels(self, plane: int) -> NDArray[np.uint8]:
        """Return the picture of a plane as it is painted, one pixel per voxel, ``[H, W, 3]``."""
        picture = self._read(".slice", plane)
        assert (picture[..., 3] == 255).all()
        return picture[..., :3]

    def marks(self, plane: int) -> NDArray[np.uint8]:
        """Return the opacity of outlines and crosshair, in pixels of the screen, ``[H, W]``."""
        return self.colours(plane)[..., 3]

    def colours(self, plane: int) -> NDArray[np.uint8]:
        """Return the colours of outlines and crosshair, ``[H, W, 4]``."""
        return self._read(".marks", plane).copy()

    def bar(self) -> NDArray[np.uint8]:
        """Return the colour bar, ``[1, 256, 4]``."""
        return self._read("#bar", 0)

    def _forget_blocked(self, request: Request) -> None:
        if request.failure == "csp":
            self.requests.remove(request.url)

    def _read(self, kind: str, plane: int) -> NDArray[np.uint8]:
        height, width, text = self.page.evaluate(_READ, [kind, plane])
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)

    def point(self, plane: int, row: int, column: int) -> tuple[float, float]:
        """Return where a voxel of a plane is on the screen."""
        canvas = self.page.locator(".slice").nth(plane)
        box, size = canvas.bounding_box(), self.pixels(plane).shape
        assert box is not None
        x = box["x"] + (column + 0.5) / size[1] * box["width"]
        return x, box["y"] + (row + 0.5) / size[0] * box["height"]

    def click(self, plane: int, row: int, column: int) -> Viewer:
        """Click at a voxel."""
        self.page.mouse.click(*self.point(plane, row, column))
        return self.settle()

    def press(self, plane: int, *keys: str) -> Viewer:
        """Press keys while a plane has the focus."""
        for key in keys:
            self.page.locator(".slice").nth(plane).press(key)
        return self.settle()

    def slide(self, control: str, value: float) -> Viewer:
        """Move a slider."""
        self.page.locator(control).fill(f"{value:g}")
        return self.settle()

    def choose(self, control: str, name: str) -> Viewer:
        """Choose from a list."""
        self.page.select_option(control, label=name)
        return self.settle()

    def text(self, selector: str) -> str:
        """Return the text of an element, with hyphens for minus signs."""
        return self.page.locator(selector).first.inner_text().replace("\N{MINUS SIGN}", "-")

    def number(self, selector: str) -> float:
        """Return the unrounded value of a reading."""
        return float(self.page.locator(selector).get_attribute("value") or "nan")

    def index(self) -> tuple[int, ...]:
        """Return the index at the crosshair."""
        return tuple(int(part) for part in self.text("#index").split(","))

    def letters(self, plane: int) -> str:
        """Return the letters left, right, above and below a plane."""
        pane = self.page.locator(".pane").nth(plane)
        sides = ("left", "right", "above", "below")
        return "".join(pane.locator(f".letter.{side}").inner_text() for side in sides)


def upright(stored: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """Return a volume turned upright by nibabel: axes to the right, anterior and superior."""
    turned: NDArray[Any] = apply_orientation(stored, io_orientation(affine))
    return turned


def on_screen(
    volume: NDArray[Any], plane: int, at: Sequence[int], *, neurological: bool = False
) -> NDArray[Any]:
    """Return a slice of an upright volume in radiological convention, rows from the top.

    Axial: anterior above; coronal: superior above; both with the patient's right on the left of
    the screen. Sagittal: superior above, anterior on the left.
    """
    if plane == SAGITTAL:
        return volume[at[0]].T[::-1, ::-1]
    cut = volume[:, :, at[2]] if plane == AXIAL else volume[:, at[1]]
    return cut.T[::-1] if neurological else cut.T[::-1, ::-1]


def grey(values: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    """Return the grey pixels of values in a window, ``[..., 3]``."""
    shares = ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)
    return np.repeat(np.rint(255 * shares)[..., None], 3, axis=-1)


def blend(
    picture: NDArray[np.float64],
    values: NDArray[Any],
    *,
    top: float,
    signed: bool = False,
    opacity: float = 0.6,
    threshold: float = 0.0,
) -> NDArray[np.float64]:
    """Return a map over grey pixels in matplotlib's colours, with alpha opacity·magnitude^0.7."""
    from matplotlib import colormaps

    scaled = (values.astype(np.float64) / top).clip(-1 if signed else 0, 1)
    name, share = ("coolwarm", scaled / 2 + 0.5) if signed else ("inferno", scaled)
    colours = colormaps[name](share)[..., :3] * 255
    alpha = opacity * np.abs(scaled) ** 0.7 * (np.abs(values) >= threshold)
    return picture + alpha[..., None] * (colours - picture)
