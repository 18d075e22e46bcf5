"""The picture that notebooks display: small, embedded in the page, without a script."""

from __future__ import annotations

import base64
import io
import math
import warnings
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from medcam.errors import MedcamError
from medcam.files.record.contents import HasMaps
from medcam.views.montage.drawing import draw_montage
from medcam.views.scene.scene import scene_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SLICES = 3
_MAX_ROWS = 3  # maps that get a row of slices each; more maps are tiles of one slice
_MAX_MAPS = 24
_MAX_BYTES = 215_000  # of the PNG; base64 makes it a third longer
_MAX_DPI = 100.0
_COLOR_STEP = 255 / 63  # 64 levels per channel: smaller files, and the eye sees no difference


def inline_html(explanation: HasMaps, target: str, inputs: Tensor | None) -> str:
    """Return the first sample's maps as an HTML picture with method, layer and target.

    The HTML has less than 300 kB and is self-contained: no script, no network, names escaped. At
    most 24 maps are drawn.

    Args:
        explanation: The explanation.
        target: The target in words.
        inputs: The input, which is drawn under the maps; None if it is unknown.

    Example:
        >>> import torch, medcam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(1),
        ...                           torch.nn.Flatten())
        >>> page = medcam.explain(net, torch.rand(1, 1, 8, 8), target=1)._repr_html_()
        >>> "data:image/png;base64," in page, "class 1" in page, "<script" in page
        (True, True, False)
    """
    try:
        maps = list(explanation.maps.values())
        scene, background = scene_of(maps, inputs=inputs)
    except MedcamError as error:
        return f"<p>{escape(str(explanation))}</p><p>{escape(str(error))}</p>"
    left_out = len(scene.maps) - _MAX_MAPS
    scene = replace(scene, maps=scene.maps[:_MAX_MAPS])
    batch = len(maps[0].values)
    methods = list(dict.fromkeys(map_.method for map_ in scene.maps))
    layers = list(dict.fromkeys(map_.layer for map_ in scene.maps if map_.layer is not None))
    lines = [
        ("Method", ", ".join(methods)),
        ("Layer", ", ".join(layers) or "none: a map of the input"),
        ("Target", target),
    ]
    if batch > 1:
        lines.append(("Shown", f"the first of {batch} samples"))
    if left_out > 0:
        lines.append(("Left out", f"{left_out} more maps; see .maps"))
    one_row_each = len(scene.maps) <= _MAX_ROWS
    figure = draw_montage(
        scene,
        maps_only=background is None,
        spacing=None if background is None else background.spacing,
        slices=_SLICES if one_row_each and scene.is_volume else 1,
    )
    rows = "".join(
        f"<div><b>{escape(name)}</b> {escape(text)}</div>" for name, text in lines if text
    )
    description = escape("; ".join(f"{name}: {text}" for name, text in lines), quote=True)
    return (
        f'<div>{rows}<img alt="{description}" style="max-width:100%" '
        f'src="data:image/png;base64,{base64.b64encode(_small_png(figure)).decode()}"></div>'
    )


def _small_png(figure: Figure) -> bytes:
    """Return the figure as a PNG of limited size, at the highest resolution that fits."""
    from PIL import Image

    levels = np.rint(np.rint(np.arange(256) / _COLOR_STEP) * _COLOR_STEP).astype(np.uint8)
    canvas: Any = figure.canvas  # an Agg canvas
    dpi = _MAX_DPI
    while True:
        figure.set_dpi(dpi)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
            canvas.draw()
        buffer = io.BytesIO()
        picture = Image.fromarray(levels[np.asarray(canvas.buffer_rgba())[..., :3]])
        picture.save(buffer, format="PNG", compress_level=6)
        content = buffer.getvalue()
        if len(content) <= _MAX_BYTES:
            return content
        # The size grows with the number of pixels; 0.93 leaves a margin.
        dpi *= 0.93 * math.sqrt(_MAX_BYTES / len(content))
