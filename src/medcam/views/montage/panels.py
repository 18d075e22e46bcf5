"""What a figure of maps is made of: panels in rows, with one style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Style:
    """What is the same in all panels.

    Attributes:
        window: The values that are black and white.
        colormap: A name of matplotlib's; None: by the kind of the map.
        opacity: That of the strongest colour.
        threshold: The share of the strongest colour below which a map is hidden.
    """

    window: tuple[float, float]
    colormap: str | None
    opacity: float
    threshold: float


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture.

    Attributes:
        gid: What its axes are called, for those who restyle.
        label: What it shows, in words.
        title: The line above it.
        size: Width and height of a pixel, in the unit of the axes.
        box: Rows and columns that are in view: first, end, first, end.
        grey: The image, ``[H, W]`` or ``[H, W, 3]``; None: the map alone.
        values: The map; None: the image alone.
        scale: What the values are divided by before they are drawn.
        mask: A region, drawn as a line.
        letters: The sides of the body at its left, right, top and bottom.
    """

    gid: str
    label: str
    title: str
    size: tuple[float, float]
    box: tuple[int, int, int, int]
    grey: NDArray[Any] | None = None
    values: NDArray[np.floating] | None = None
    scale: float = 1.0
    mask: NDArray[np.bool_] | None = None
    letters: tuple[str, str, str, str] | None = None

    @property
    def extents(self) -> tuple[float, float]:
        """Width and height of what is in view, in the unit of the axes."""
        top, bottom, left, right = self.box
        return (right - left) * self.size[0], (bottom - top) * self.size[1]


@dataclass(frozen=True)
class Row:
    """Panels with one heading and one colour bar.

    Attributes:
        gid: What the colour bar's axes are called, after ``colorbar:``.
        heading: The line above it.
        panels: From left to right.
        top: The value of the strongest colour; None: there is no colour bar.
        signed: Whether the scale is symmetric about zero.
        cut: Whether values go beyond the strongest colour.
        units: The colour bar's name.
    """

    gid: str
    heading: str
    panels: Sequence[Panel] = field(repr=False)
    top: float | None = None
    signed: bool = False
    cut: bool = False
    units: str = ""


def one_line(text: object, longest: int) -> str:
    r"""Gives one line of at most so many letters; a longer one loses its middle.

    Example:
        >>> one_line("encoder.stages.3.convs.1", 12), one_line("a\nb", 9)
        ('encod…nvs.1', 'a�b')
    """
    line = "".join(letter if letter.isprintable() else "�" for letter in str(text))
    if len(line) <= longest:
        return line
    half = max(longest - 1, 2) // 2
    return f"{line[:half]}…{line[-half:]}"


def short_number(value: float) -> str:
    """Gives a number with three digits, or as many as it has.

    Example:
        >>> [short_number(value) for value in (0.25, 0.000015, -200000.0, 0)]
        ['0.25', '1.5e−5', '−2e5', '0']
    """
    text = f"{value:.3g}"
    if value and not 1e-3 <= abs(value) < 1e4:
        digits, power = f"{value:.2e}".split("e")
        text = f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    return text.replace("-", "\N{MINUS SIGN}")
