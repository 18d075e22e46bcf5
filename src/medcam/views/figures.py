"""Write matplotlib figures as PNG, to files and into pages."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path | io.BytesIO) -> None:
    """Write a figure as PNG, whatever the suffix of the path.

    Characters that the font lacks are drawn as boxes, without matplotlib's warning.

    Args:
        figure: The figure.
        path: A path or a binary stream.

    Example:
        >>> from matplotlib.figure import Figure
        >>> stream = io.BytesIO()
        >>> save_figure(Figure(), stream)
        >>> stream.getvalue()[1:4]
        b'PNG'
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(path, format="png")


def to_data_uri(figure: Figure) -> str:
    """Return a figure as a PNG data URI, which a page can embed.

    Example:
        >>> from matplotlib.figure import Figure
        >>> to_data_uri(Figure())[:22]
        'data:image/png;base64,'
    """
    stream = io.BytesIO()
    save_figure(figure, stream)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
