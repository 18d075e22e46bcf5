"""Pictures of views and bags: each view is shown as the picture that it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam.errors import MedcamWarning
from medcam.views.montage.slices import choose_planes
from medcam.views.scene.grid import stack_grid
from medcam.views.scene.scene import scene_of


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        features = self.encoder(x.flatten(0, 1)).relu().mean((2, 3))
        return self.head(features.view(len(x), -1, 4).mean(1))


@pytest.fixture(scope="module")
def explained():
    torch.manual_seed(0)
    return medcam.explain(Views().eval(), torch.rand(1, 4, 1, 20, 14), target=1, layer="encoder")


def test_the_first_plane_shows_each_view_upright(explained):
    view = explained.map.values[0, 0, 2].numpy()
    scene, _ = scene_of([explained.map], inputs=explained.inputs)
    plane = choose_planes(scene.grid, "auto")
    assert [shown.name for shown in plane] == ["Pictures"]
    assert scene.grid.planes[0] == plane[0]
    shown = plane[0].slice_of(scene.grid.arrange(scene.maps[0].values), 2)
    np.testing.assert_array_equal(shown, view)


def test_a_stack_with_an_affine_keeps_the_patient_s_planes(explained):
    affine = np.diag([3.0, 1, 1, 1])
    scene, _ = scene_of([explained.map], inputs=explained.inputs, affine=affine)
    assert [plane.name for plane in scene.grid.planes] == ["Sagittal", "Axial", "Coronal"]
    assert [plane.name for plane in choose_planes(scene.grid, "auto")] == ["Sagittal"]


def test_three_columns_are_no_colours():
    """A stack of pictures with three columns is not mistaken for a colour picture."""
    item = medcam.explain(Views().eval(), torch.rand(1, 4, 1, 5, 3), target=1, layer="encoder").map
    scene, _ = scene_of([item])
    assert scene.is_volume
    assert scene.space == (4, 5, 3)


def test_other_volumes_are_no_stacks():
    volume = medcam.explain(
        nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)),
        torch.rand(1, 1, 4, 6, 5), target=1, layer="0",
    )  # fmt: skip
    scene, _ = scene_of([volume.map], inputs=volume.inputs)
    assert [plane.name for plane in choose_planes(scene.grid, "auto")] == ["Axes 1, 2"]
    assert stack_grid((4, 6, 5), None).planes[0].through == 0


def test_the_page_and_the_montage_are_saved(explained, tmp_path):
    with pytest.warns(MedcamWarning):
        paths = explained.save(tmp_path / "views")
    assert {path.suffix for path in paths} >= {".png", ".html"}
    assert '"Pictures"' in (tmp_path / "views.html").read_text()
