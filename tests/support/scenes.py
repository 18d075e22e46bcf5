"""Small scenes for tests; none of their arrays has a symmetry."""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.orientations import inv_ornt_aff, ornt_transform
from numpy.typing import NDArray

from medcam.views.scene.values import Scene, SceneMap

SHAPE = (11, 14, 9)
RAS = np.array([[1.5, 0, 0, -8], [0, 1.0, 0, -3], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def volume(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    """Return random values from 0 to 1 in steps of 0.01."""
    values = np.random.default_rng(seed).integers(0, 101, shape) / 100
    return values.astype(np.float32)


def map_of(values: NDArray[Any], method: str = "Grad-CAM", **more: Any) -> SceneMap:
    return SceneMap(values.astype(np.float32), method, **more)


def scene_3d(affine: NDArray[np.float64] | None = RAS, **more: Any) -> Scene:
    """Return a volume with a positive map, a signed one and a mask."""
    defaults: dict[str, Any] = {
        "maps": [
            map_of(volume(1), layer="layer4", target="class 1", units="raw Grad-CAM units"),
            map_of(2 * volume(2) - 1, "Guided Backpropagation", target="class 1", signed=True),
        ],
        "mask": volume(3) > 0.5,
        "scores": [{"method": "Grad-CAM", "dice": 0.51239}],
        "provenance": {"medcam": "1.0", "model": {"sha256": "ab12"}},
    }
    return Scene("Case 7", volume(), affine=affine, **{**defaults, **more})


def scene_2d(**more: Any) -> Scene:
    """Return a picture with a map and a mask."""
    shape = (12, 17)
    defaults = {"maps": [map_of(volume(1, shape))], "mask": volume(3, shape) > 0.5}
    return Scene("Picture 7", volume(0, shape), **{**defaults, **more})


def stored_as(
    codes: tuple[str, str, str], ras: NDArray[Any], affine: NDArray[np.float64] = RAS
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the same volume stored in another order: its array and its affine."""
    from nibabel.orientations import apply_orientation, axcodes2ornt

    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    return apply_orientation(ras, turn), affine @ inv_ornt_aff(turn, ras.shape)


def rotated(degrees: float, *, left_handed: bool = False) -> NDArray[np.float64]:
    """Return RAS rotated about the patient's long axis, and tilted by half the angle."""
    turn, tilt = np.radians(degrees), np.radians(degrees / 2)
    about_z = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    )
    affine = RAS.copy()
    affine[:3, :3] = about_z @ about_x @ RAS[:3, :3]
    if left_handed:
        affine[:3, 0] *= -1
    return affine
