"""A network that finds bright spots, and an oblique volume that holds one."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import nn

SHAPE = (26, 22, 12)
SPOT = np.array([15.0, 9.0, 5.0])  # in voxels
RADIUS = 7.0  # in mm


class Finder(nn.Module):
    """Segments bright voxels as class 1; its features are the smoothed image's bright part."""

    def __init__(self, dims: int = 3) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.features = nn.Sequential(conv(1, 2, 3, padding=1, padding_mode="replicate"), nn.ReLU())
        self.head = conv(2, 2, 1)
        with torch.no_grad():
            self.features[0].weight[0] = 1 / 3**dims
            self.features[0].weight[1] *= 0.01
            self.features[0].bias.copy_(torch.tensor([-0.4, 0.0]))
            self.head.weight.zero_()
            self.head.weight[1, 0] = 1.0
            self.head.bias.copy_(torch.tensor([0.0, -0.2]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def oblique() -> np.ndarray:
    """Return a rotated, anisotropic, left-handed affine."""
    a, b = np.deg2rad(17), np.deg2rad(-9)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-1.6, 2.0, 3.5])
    affine[:3, 3] = [37.0, -21.5, 112.0]
    assert np.linalg.det(affine[:3, :3]) < 0
    return affine


def spot_mm() -> np.ndarray:
    """Return the spot's centre in mm."""
    return (oblique() @ [*SPOT, 1])[:3]


def write_volume(path: Path) -> Path:
    """Write a volume with a bright ball in a dim box in an empty margin; return its path."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    offset = (grid - SPOT) @ oblique()[:3, :3].T
    volume = np.zeros(SHAPE, np.float32)
    volume[3:-2, 2:-3, 1:-1] = 0.1 + 0.05 * rng.random((21, 17, 10))
    volume[(offset**2).sum(-1) < RADIUS**2] = 1.0
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume, oblique()), path)
    return path


def centre_mm(image: nibabel.Nifti1Image) -> np.ndarray:
    """Return the centre of a map's high values in mm."""
    values = image.get_fdata()
    values = values * (values > values.max() / 2)
    grid = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"), -1)
    voxel = (grid * values[..., None]).sum((0, 1, 2)) / values.sum()
    return (image.affine @ [*voxel, 1])[:3]


def inside(image: nibabel.Nifti1Image) -> float:
    """Return the share of a map's energy in the spot and a rim of 4 mm around it."""
    values = image.get_fdata()
    grid = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"), -1)
    place = np.concatenate([grid, np.ones((*values.shape, 1))], -1) @ image.affine.T
    far = np.linalg.norm(place[..., :3] - spot_mm(), axis=-1)
    return values[far < RADIUS + 4].sum() / values.sum()
