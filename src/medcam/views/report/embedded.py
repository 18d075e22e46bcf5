"""Convert a scene to the data of the viewer: a dictionary for JSON, and its arrays as text."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.views import colors
from medcam.views.report.opening import first_map, verdicts
from medcam.views.report.packing import Packed, pack
from medcam.views.report.pictures import lookup_table
from medcam.views.scene.grey_windows import grey_windows, is_ct
from medcam.views.scene.grid import SIDES, Grid
from medcam.views.scene.values import Scene, SceneMap

_LARGE = 256**3  # voxels; maps of larger volumes are embedded at half the resolution


def embed(scene: Scene) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the data that the viewer reads.

    Args:
        scene: The scene.

    Returns:
        The scene as a dictionary for JSON, the type `SceneData` in ``unpack.js``. Then the texts of
        its arrays, the blobs, by the names that the dictionary uses for them.
    """
    grid = scene.grid
    blobs: dict[str, str] = {}
    data = {
        "volume": scene.is_volume,
        "shape": grid.shape,
        "spacing": grid.spacing,
        "order": grid.order,
        "flipped": grid.flipped,
        "affine": None if grid.affine is None else grid.affine.tolist(),
        "normals": None if grid.normals is None else grid.normals.tolist(),
        "oblique": bool(grid.oblique),
        "ends": None if grid.affine is None else SIDES,
        "planes": [vars(plane) for plane in grid.planes],
        "start": start_voxel(scene, grid),
        "image": _embed_image(scene, grid, blobs),
        "first": first_map(scene),
        "maps": [
            {**_embed_map(scene_map, grid, f"map-{number}", blobs), "verdict": verdict}
            for number, (scene_map, verdict) in enumerate(
                zip(scene.maps, verdicts(scene), strict=True)
            )
        ],
        "colours": {
            name: base64.b64encode(lookup_table(signed=signed).tobytes()).decode()
            for name, signed in (("positive", False), ("signed", True))
        },
        "mask": _embed_labels("mask", scene.mask, grid, blobs),
        "segmentation": _embed_labels("segmentation", scene.segmentation, grid, blobs),
        "exponent": colors.OPACITY_EXPONENT,
        "opacity": colors.OPACITY,
    }
    return data, blobs


def start_voxel(scene: Scene, grid: Grid) -> tuple[int, int, int]:
    """Return the first position of the crosshair: the shown map's maximum, or the centre."""
    shown = scene.maps[first_map(scene)] if scene.maps else None
    if shown is None or not shown.values.any():
        x, y, z = (extent // 2 for extent in grid.shape)
        return x, y, z
    values = np.abs(grid.arrange(shown.values))
    x, y, z = (int(index) for index in np.unravel_index(int(values.argmax()), grid.shape))
    return x, y, z


def is_large(grid: Grid) -> bool:
    """Return whether maps are embedded at half the resolution."""
    return int(np.prod(grid.shape)) > _LARGE


def _embed_image(scene: Scene, grid: Grid, blobs: dict[str, str]) -> dict[str, Any]:
    """Add the image to the blobs, and return its description."""
    windows = grey_windows(scene.image, modality=scene.modality)
    values = grid.arrange(scene.image)
    coloured = values.ndim == 4
    # The window before the full range sets the precision: the automatic one, or "As stored".
    reference = windows[-2 if len(windows) > 1 else 0]
    packed = pack(
        np.moveaxis(values, 3, 0) if coloured else values, span=reference.high - reference.low
    )
    finite = values[np.isfinite(values)]
    return {
        **_add_blob(packed, "image", blobs),
        "channels": 3 if coloured else 1,
        "units": "HU" if is_ct(scene.image, modality=scene.modality) else "",
        "windows": [vars(window) for window in windows],
        "range": [float(finite.min()), float(finite.max())] if finite.size else [0.0, 1.0],
    }


def _embed_map(scene_map: SceneMap, grid: Grid, name: str, blobs: dict[str, str]) -> dict[str, Any]:
    """Add a map to the blobs, and return its description."""
    values = grid.arrange(scene_map.values)
    halved = is_large(grid)
    packed = pack(_halve(values) if halved else values, span=scene_map.scale_top)
    return {
        **_add_blob(packed, name, blobs),
        "factor": 2 if halved else 1,
        "method": scene_map.method,
        "layer": scene_map.layer,
        "target": scene_map.target,
        "signed": scene_map.signed,
        "units": scene_map.units,
        "top": scene_map.scale_top,
        "scale": _describe_scale(scene_map),
    }


def _describe_scale(scene_map: SceneMap) -> str:
    """Return what the value of the strongest colour is, in words."""
    if scene_map.top is not None:
        return "one scale for all cases"
    return "to the 99.9th percentile"


def _embed_labels(
    name: str, labels: NDArray[Any] | None, grid: Grid, blobs: dict[str, str]
) -> dict[str, Any] | None:
    """Add a mask or segmentation to the blobs, and return its description."""
    if labels is None:
        return None
    return _add_blob(pack(grid.arrange(labels.astype(np.uint16)), span=1.0), name, blobs)


def _add_blob(packed: Packed, name: str, blobs: dict[str, str]) -> dict[str, Any]:
    """Add an array to the blobs, and return how it is packed."""
    blobs[name] = packed.text
    attributes = ("bytes", "first", "step", "gaps", "exact")
    return {"blob": name, **{attribute: getattr(packed, attribute) for attribute in attributes}}


def _halve(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return the means of 2×2×2 voxels; the last voxel of an odd extent is repeated."""
    padded = np.pad(values, [(0, extent % 2) for extent in values.shape], mode="edge")
    x, y, z = (extent // 2 for extent in padded.shape)
    means: NDArray[np.float32] = padded.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5), dtype=np.float32)
    return means
