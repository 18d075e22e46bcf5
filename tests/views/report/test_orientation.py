"""Letters, positions and millimetres are right for every stored order of a volume."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes

from medcam.errors import InputError
from medcam.views.scene.grid import volume_grid
from medcam.views.scene.values import Scene
from support.scenes import RAS, SHAPE, rotated, scene_3d, stored_as, volume
from support.viewing import AXIAL, CORONAL, SAGITTAL, Viewer, upright

Show = Callable[..., Viewer]

ORDERS = ["RAS", "LPS", "LAS", "PIR", "ASL", "IRP", "SLA", "RPI"]
ALL_ORDERS = [
    "".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)
]


def _corner() -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return an upright volume with one bright voxel: left, anterior, superior."""
    image = volume() / 2
    image[1, SHAPE[1] - 3, SHAPE[2] - 2] = 1.0
    return image, (1, SHAPE[1] - 3, SHAPE[2] - 2)


@pytest.mark.parametrize("order", ORDERS)
def test_the_left_anterior_superior_voxel_is_where_it_belongs(show: Show, order: str) -> None:
    image, at = _corner()
    stored, affine = stored_as(tuple(order), image)
    assert "".join(aff2axcodes(affine)) == order
    viewer = show(Scene(order, stored, affine=affine)).choose("#preset", "Full range")
    width = SHAPE[0]
    for scroll, index in ((AXIAL, at[2]), (CORONAL, at[1]), (SAGITTAL, at[0])):
        viewer.page.locator(".scroll").nth(scroll).fill(str(index))
    viewer.settle()
    # The patient's left is on the right of the screen; in the sagittal picture he looks left.
    places = {
        AXIAL: (2, width - 2),
        CORONAL: (1, width - 2),
        SAGITTAL: (1, 2),
    }
    for plane, place in places.items():
        bright = np.argwhere(viewer.pixels(plane)[..., 0] == 255)
        assert bright.tolist() == [list(place)]
    assert [viewer.letters(plane) for plane in range(3)] == ["RLAP", "RLSI", "APSI"]
    # The reading speaks of the array as it is stored, and of the same place in the body.
    assert stored[viewer.index()] == 1.0
    assert viewer.text("#place") == ", ".join(f"{mm:.1f}" for mm in apply_affine(RAS, at))


@pytest.mark.parametrize("order", ALL_ORDERS)
def test_every_stored_order_is_turned_upright(order: str) -> None:
    image = volume()
    stored, affine = stored_as(tuple(order), image)
    grid = volume_grid(stored.shape, affine)
    assert (grid.arrange(stored) == image).all()
    assert grid.shape == SHAPE
    np.testing.assert_allclose(grid.affine, RAS, atol=1e-12)


@pytest.mark.parametrize("left_handed", [False, True], ids=["right-handed", "left-handed"])
@pytest.mark.parametrize("degrees", [8, 35, 80, 170])
def test_oblique_volumes_take_the_nearest_axes(degrees: float, left_handed: bool) -> None:
    affine = rotated(degrees, left_handed=left_handed)
    grid = volume_grid(SHAPE, affine)
    assert grid.affine is not None
    assert "".join(aff2axcodes(grid.affine)) == "RAS"
    image = volume()
    turned = grid.arrange(image)
    assert (turned == upright(image, affine)).all()
    image[2, 3, 4] = 9.0
    at = np.argwhere(grid.arrange(image) == 9.0)[0]
    np.testing.assert_allclose(apply_affine(grid.affine, at), apply_affine(affine, (2, 3, 4)))
    assert grid.oblique > 0.5


def test_positions_are_measured_across_the_slices_of_a_sheared_grid() -> None:
    affine = RAS.copy()
    affine[0, 2] = 1.2  # a tilted gantry: slices are shifted sideways
    grid = volume_grid(SHAPE, affine)
    assert grid.normals is not None
    for axis, normal in enumerate(grid.normals):
        within = np.delete(affine[:3, :3], axis, axis=1)
        np.testing.assert_allclose(normal @ within, 0, atol=1e-12)
        assert normal @ affine[:3, axis] > 0
        assert np.linalg.norm(normal) == pytest.approx(1)


def test_an_oblique_page_says_so_and_measures_along_the_normal(show: Show) -> None:
    affine = rotated(30)
    viewer = show(scene_3d(affine))
    assert "oblique by 33°" in viewer.text(".facts")
    assert [viewer.letters(plane) for plane in range(3)] == ["RLAP", "RLSI", "APSI"]
    mm = apply_affine(affine, viewer.index())
    np.testing.assert_allclose(
        [float(part) for part in viewer.text("#place").split(",")], mm, atol=0.051
    )
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    along = float(mm @ normal / np.linalg.norm(normal))
    k = viewer.index()[2]
    assert viewer.text(".position") == f"position {along:.1f} mm, oblique · k {k}"


def test_left_and_right_change_sides_for_neurologists(show: Show) -> None:
    viewer = show(scene_3d())
    before = [viewer.pixels(plane) for plane in range(3)]
    viewer.page.check("#neurological")
    after = [viewer.settle().pixels(plane) for plane in range(3)]
    assert [viewer.letters(plane) for plane in range(3)] == ["LRAP", "LRSI", "APSI"]
    for plane in (AXIAL, CORONAL):
        assert (after[plane] == before[plane][:, ::-1]).all()
        assert (after[plane] != before[plane]).any()
    assert (after[SAGITTAL] == before[SAGITTAL]).all()
    viewer.click(AXIAL, 0, 0)  # anterior, and now the patient's left
    assert viewer.index()[:2] == (0, SHAPE[1] - 1)
    viewer.page.check("#radiological")
    viewer.settle().click(AXIAL, 0, 0)
    assert viewer.index()[:2] == (SHAPE[0] - 1, SHAPE[1] - 1)


def test_without_an_affine_no_side_is_named(show: Show) -> None:
    viewer = show(scene_3d(None))
    assert [viewer.letters(plane) for plane in range(3)] == ["", "", ""]
    assert viewer.page.locator("#place, #neurological").count() == 0
    assert "orientation unknown" in viewer.text(".facts")
    assert viewer.text(".pane h2") == "Axes 1, 2"
    assert "mm" not in viewer.text(".position")


def test_an_affine_that_cannot_place_voxels_is_refused() -> None:
    with pytest.raises(InputError, match="invertible"):
        scene_3d(np.zeros((4, 4)))
    with pytest.raises(InputError, match="4x4"):
        scene_3d(np.eye(3))
