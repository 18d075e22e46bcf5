"""What the viewer is given: the case as JSON, and its arrays as text."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.views.report import pictures
from medcam.views.report.grid import Grid, picture_grid, volume_grid
from medcam.views.report.packing import Packed, pack
from medcam.views.report.values import ReportCase, ReportMap
from medcam.views.report.windows import is_ct, windows_of

_LARGE = 256**3  # voxels; maps of larger volumes are embedded at half the resolution
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))


def embed(case: ReportCase) -> tuple[dict[str, Any], dict[str, str]]:
    """Gives what the viewer reads: the case, and the texts of its arrays by their names.

    Args:
        case: The case.
    """
    grid = grid_of(case)
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
            name: base64.b64encode(pictures.lookup_table(signed=signed).tobytes()).decode()
            for name, signed in (("positive", False), ("signed", True))
        },
        "mask": _labels("mask", case.mask, grid, blobs),
        "segmentation": _labels("segmentation", case.segmentation, grid, blobs),
        "rise": pictures.RISE,
        "opacity": pictures.OPACITY,
    }
    return data, blobs


def grid_of(case: ReportCase) -> Grid:
    """Gives the grid that a case is shown on."""
    return volume_grid(case.space, case.affine) if case.is_volume else picture_grid(case.space)


def start_of(case: ReportCase, grid: Grid) -> tuple[int, int, int]:
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


def _image(case: ReportCase, grid: Grid, blobs: dict[str, str]) -> dict[str, Any]:
    windows = windows_of(case.image, modality=case.modality)
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


def _map(shown: ReportMap, grid: Grid, blob: str, blobs: dict[str, str]) -> dict[str, Any]:
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


def _scale(shown: ReportMap) -> str:
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
