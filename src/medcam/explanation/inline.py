"""A picture for notebooks: small, in the page itself, without a script."""

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
_ROWS = 3  # of slices; more maps are tiles on one slice
_MOST_MAPS = 24
_MOST_BYTES = 215_000  # of the PNG; as text it is a third longer
_SHARPEST = 100.0  # dots an inch
_STEP = 255 / 63


def inline_html(explanation: HasMaps, target: str, inputs: Tensor | None) -> str:
    """Return the first sample's maps as a picture in HTML, with what they are of.

    Less than 300 kB, all in the page: no script, no network, names escaped. Of more than 24 maps
    the first are shown.

    Args:
        explanation: The explanation.
        target: What was explained, in words.
        inputs: The input, which is drawn under the maps; None: it is not known.

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
        scene, under = scene_of(maps, inputs=inputs)
    except MedcamError as error:
        return f"<p>{escape(str(explanation))}</p><p>{escape(str(error))}</p>"
    left_out = len(scene.maps) - _MOST_MAPS
    scene = replace(scene, maps=scene.maps[:_MOST_MAPS])
    values = maps[0].values
    methods = list(dict.fromkeys(one.method for one in scene.maps))
    layers = list(dict.fromkeys(one.layer for one in scene.maps if one.layer is not None))
    lines = [
        ("Method", ", ".join(methods)),
        ("Layer", ", ".join(layers) or "none: a map of the input"),
        ("Target", target),
    ]
    if len(values) > 1:
        lines.append(("Shown", f"the first of {len(values)} samples"))
    if left_out > 0:
        lines.append(("Left out", f"{left_out} more maps; see .maps"))
    few = len(scene.maps) <= _ROWS
    figure = draw_montage(
        scene,
        bare=under is None,
        spacing=None if under is None else under.spacing,
        slices=_SLICES if few and scene.is_volume else 1,
    )
    rows = "".join(
        f"<div><b>{escape(name)}</b> {escape(text)}</div>" for name, text in lines if text
    )
    words = escape("; ".join(f"{name}: {text}" for name, text in lines), quote=True)
    return (
        f'<div>{rows}<img alt="{words}" style="max-width:100%" '
        f'src="data:image/png;base64,{base64.b64encode(_small_png(figure)).decode()}"></div>'
    )


def _small_png(figure: Figure) -> bytes:
    """The figure in 64 steps a colour, which are not seen, as sharp as there are bytes for."""
    from PIL import Image

    steps = np.rint(np.rint(np.arange(256) / _STEP) * _STEP).astype(np.uint8)
    canvas: Any = figure.canvas  # Agg's
    dots = _SHARPEST
    while True:
        figure.set_dpi(dots)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
            canvas.draw()
        packed = io.BytesIO()
        picture = Image.fromarray(steps[np.asarray(canvas.buffer_rgba())[..., :3]])
        picture.save(packed, format="PNG", compress_level=6)
        content = packed.getvalue()
        if len(content) <= _MOST_BYTES:
            return content
        dots *= 0.93 * math.sqrt(_MOST_BYTES / len(content))  # bytes go with the pixels
