"""Values of a montage: panels in rows, drawn in one style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

View = tuple[int, int, int, int]
"""The part of a slice in view: the first row, the row after the last, and the same of columns."""


@dataclass(frozen=True)
class Style:
    """The style that all panels share.

    Attributes:
        window: The values drawn black and white.
        colormap: The name of a matplotlib colormap. None: the default for a map's sign.
        opacity: The opacity of the strongest colour.
        threshold: The share of the strongest colour below which a map is hidden.
    """

    window: tuple[float, float]
    colormap: str | None
    opacity: float
    threshold: float


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a montage.

    Attributes:
        gid: The identifier of its axes, by which users find them to restyle them.
        label: What it shows, in words.
        title: The text above it.
        size: Width and height of a pixel, in the unit of the axes.
        view: The part that is in view.
        grey: The image, ``[H, W]`` or ``[H, W, 3]``; None: only the map is drawn.
        values: The map; None: only the image is drawn.
        scale: The value that the map is divided by before it is drawn.
        mask: A region, drawn as a line.
        letters: The patient's sides at the left, right, top and bottom of the picture.
    """

    gid: str
    label: str
    title: str
    size: tuple[float, float]
    view: View
    grey: NDArray[Any] | None = None
    values: NDArray[np.floating] | None = None
    scale: float = 1.0
    mask: NDArray[np.bool_] | None = None
    letters: tuple[str, str, str, str] | None = None

    @property
    def extents(self) -> tuple[float, float]:
        """Width and height of the part in view, in the unit of the axes."""
        top, bottom, left, right = self.view
        return (right - left) * self.size[0], (bottom - top) * self.size[1]


@dataclass(frozen=True)
class PanelRow:
    """A row of panels with one heading and one colour bar.

    Attributes:
        gid: The identifier of the colour bar's axes, after ``colorbar:``.
        heading: The line above the row.
        panels: The panels, from left to right.
        top: The value of the strongest colour; None: there is no colour bar.
        signed: Whether the scale is symmetric about zero.
        clipped: Whether the map has values beyond the strongest colour.
        units: The label of the colour bar.
    """

    gid: str
    heading: str
    panels: Sequence[Panel] = field(repr=False)
    top: float | None = None
    signed: bool = False
    clipped: bool = False
    units: str = ""
