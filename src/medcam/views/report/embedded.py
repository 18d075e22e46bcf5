"""What the viewer is given: the case as JSON, and its arrays as text."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.views import colors
from medcam.views.report.packing import Packed, pack
from medcam.views.report.pictures import lookup_table
from medcam.views.scene.grey_windows import grey_windows, is_ct
from medcam.views.scene.grid import Grid
from medcam.views.scene.values import Scene, SceneMap

_LARGE = 256**3  # voxels; maps of larger volumes are embedded at half the resolution
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))


def embed(case: Scene) -> tuple[dict[str, Any], dict[str, str]]:
    """Gives what the viewer reads: the case, and the texts of its arrays by their names.

    Args:
        case: The case.
    """
    grid = case.grid
    blobs: dict[str, str] = {}
    data = {
        "volume": case.is_volume,
        "shape": grid.shape,
        "spacing": grid.spacing,
        "order": grid.order,
        "flipped": grid.flipped,
        "affine": None if grid.affine is None else grid.affine.tolist(),
        "normals": None if grid.normals is None else grid.normals.tolist(),
        "oblique": bool(grid.oblique),
        "ends": None if grid.affine is None else _ENDS,
        "planes": [vars(plane) for plane in grid.planes],
        "start": start_of(case, grid),
        "image": _image(case, grid, blobs),
        "maps": [
            _map(shown, grid, f"map-{number}", blobs) for number, shown in enumerate(case.maps)
        ],
        "colours": {
            name: base64.b64encode(lookup_table(signed=signed).tobytes()).decode()
            for name, signed in (("positive", False), ("signed", True))
        },
        "mask": _labels("mask", case.mask, grid, blobs),
        "segmentation": _labels("segmentation", case.segmentation, grid, blobs),
        "rise": colors.RISE,
        "opacity": colors.OPACITY,
    }
    return data, blobs


def start_of(case: Scene, grid: Grid) -> tuple[int, int, int]:
    """Gives where the crosshair begins: the first map's highest magnitude, else the centre."""
    if not case.maps or not case.maps[0].values.any():
        x, y, z = (extent // 2 for extent in grid.shape)
        return x, y, z
    values = np.abs(grid.arrange(case.maps[0].values))
    x, y, z = (int(index) for index in np.unravel_index(int(values.argmax()), grid.shape))
    return x, y, z


def is_large(grid: Grid) -> bool:
    """Whether maps are embedded at half the resolution."""
    return int(np.prod(grid.shape)) > _LARGE


def _image(case: Scene, grid: Grid, blobs: dict[str, str]) -> dict[str, Any]:
    windows = grey_windows(case.image, modality=case.modality)
    values = grid.arrange(case.image)
    coloured = values.ndim == 4
    finest = windows[-2 if len(windows) > 1 else 0]  # the automatic one: presets may be narrower
    packed = pack(np.moveaxis(values, 3, 0) if coloured else values, span=finest.high - finest.low)
    finite = values[np.isfinite(values)]
    return {
        **_described(packed, "image", blobs),
        "channels": 3 if coloured else 1,
        "units": "HU" if is_ct(case.image, modality=case.modality) else "",
        "windows": [vars(window) for window in windows],
        "range": [float(finite.min()), float(finite.max())] if finite.size else [0.0, 1.0],
    }


def _map(shown: SceneMap, grid: Grid, blob: str, blobs: dict[str, str]) -> dict[str, Any]:
    values = grid.arrange(shown.values)
    halved = is_large(grid)
    packed = pack(_halve(values) if halved else values, span=shown.scale_top)
    return {
        **_described(packed, blob, blobs),
        "factor": 2 if halved else 1,
        "method": shown.method,
        "layer": shown.layer,
        "target": shown.target,
        "signed": shown.signed,
        "units": shown.units,
        "top": shown.scale_top,
        "scale": _scale(shown),
    }


def _scale(shown: SceneMap) -> str:
    """What the strongest colour stands for, in words."""
    if shown.top is not None:
        return "one scale for all cases"
    return "to the 99.9th percentile"


def _described(packed: Packed, blob: str, blobs: dict[str, str]) -> dict[str, Any]:
    blobs[blob] = packed.text
    about = ("bytes", "first", "step", "gaps", "exact")
    return {"blob": blob, **{name: getattr(packed, name) for name in about}}


def _halve(values: NDArray[Any]) -> NDArray[np.float32]:
    """The means of 2×2×2 voxels; the last of an odd extent counts twice."""
    padded = np.pad(values, [(0, extent % 2) for extent in values.shape], mode="edge")
    x, y, z = (extent // 2 for extent in padded.shape)
    means: NDArray[np.float32] = padded.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5), dtype=np.float32)
    return means


def _labels(
    blob: str, labels: NDArray[Any] | None, grid: Grid, blobs: dict[str, str]
) -> dict[str, Any] | None:
    if labels is None:
        return None
    return _described(pack(grid.arrange(labels.astype(np.uint16)), span=1.0), blob, blobs)
