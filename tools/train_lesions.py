"""Training of the demo's lesion classifier, and its held-out slices.

Part of ``make_demo_assets.py``. The lesions are bright ellipses in slices of real heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medcam.demo.networks import LesionNet

# 64 pixels of 3.4 mm contain every head completely.
_SIDE, _PIXEL_MM, _CENTRE_MM = 64, 3.4, (0.0, -18.0)
TRAINING_HEIGHTS_MM = np.arange(-25.0, 61.0, 2.5)
HELD_OUT_HEIGHTS_MM = np.linspace(-25.0, 60.0, 32)
# The grey level of the brain's 95th percentile: the scalp and the lesions are brighter, up to 1.
_BRAIN_LEVEL = 0.55
_SEMI_AXES_PIXELS, _CONTRAST = (3.0, 5.5), (0.25, 0.5)

# The factor of `load_lesion_slices`: the inputs of the network are near 1 then.
_INPUT_SCALE = 4.0
_STEPS, _BATCH, _LEARNING_RATE, _ACTIVITY_PENALTY = 400, 48, 4e-3, 1.0


@dataclass(frozen=True)
class Slices:
    """Axial slices ``[N, 1, 64, 64]`` of one or more heads, and their brain masks."""

    images: Tensor
    brain: Tensor

    def __getitem__(self, indices: Tensor) -> Slices:
        return Slices(self.images[indices], self.brain[indices])


def read_slices(scan: Path, mask: Path, heights_mm: np.ndarray) -> Slices:
    """Read axial slices of a head at heights in mm, scaled to [0, 1], with their brain masks.

    Args:
        scan: The head in MNI space, NIfTI.
        mask: The brain mask of the MNI152 template, NIfTI.
        heights_mm: The z coordinate of each slice in MNI space.
    """
    # all heads are in MNI space, so the MNI152 mask fits each of them well enough
    brain = _sample_axial(mask, heights_mm, blur_mm=0.0) > 0.5
    images = _sample_axial(scan, heights_mm, blur_mm=1.2)
    images = np.clip(images / np.quantile(images[brain], 0.95) * _BRAIN_LEVEL, 0, 1)
    return Slices(
        torch.from_numpy(images).float()[:, None], torch.from_numpy(brain).float()[:, None]
    )


def _sample_axial(path: Path, heights_mm: np.ndarray, *, blur_mm: float) -> np.ndarray:
    """Sample axial slices ``[N, 64, 64]`` at heights in mm.

    Rows run from anterior to posterior, columns from the patient's left to the right.
    """
    image = nib.Nifti1Image.from_filename(path)
    # the pixels are larger than the voxels: without a blur, fine structures would alias
    voxel_mm = np.abs(np.diag(image.affine)[:3])
    values = ndimage.gaussian_filter(image.get_fdata(dtype=np.float32), blur_mm / voxel_mm)
    offsets = (np.arange(_SIDE) - (_SIDE - 1) / 2) * _PIXEL_MM
    z, y, x = np.meshgrid(
        heights_mm, _CENTRE_MM[1] - offsets, _CENTRE_MM[0] + offsets, indexing="ij"
    )
    mm = np.stack([x, y, z, np.ones_like(x)])
    indices = np.einsum("ij,j...->i...", np.linalg.inv(image.affine), mm)[:3]
    return ndimage.map_coordinates(values, indices, order=1)


def _insert_lesions(slices: Slices, present: Tensor) -> tuple[Tensor, Tensor]:
    """Add a bright ellipse with a soft edge to the slices for which ``present`` is true.

    Returns:
        The images in [0, 1], and the exact masks of the ellipses, bool.
    """
    count = len(slices.images)
    # centres are at least 4 pixels inside the brain, unless the brain of a slice is too thin
    centre_mask = 1 - F.max_pool2d(1 - slices.brain, kernel_size=9, stride=1, padding=4)
    thin = centre_mask.flatten(1).sum(1) == 0
    centre_mask[thin] = slices.brain[thin]
    centre = torch.multinomial(centre_mask.flatten(1), 1)
    pixels = torch.arange(_SIDE)
    dx = pixels[None, None, :] - (centre % _SIDE)[:, :, None]
    dy = pixels[None, :, None] - (centre // _SIDE)[:, :, None]
    angle = _uniform(0, math.pi, count, 1, 1)
    major, minor = (
        _uniform(*_SEMI_AXES_PIXELS, count, 1, 1),
        _uniform(*_SEMI_AXES_PIXELS, count, 1, 1),
    )
    along_major = (dx * angle.cos() + dy * angle.sin()) / major
    along_minor = (dy * angle.cos() - dx * angle.sin()) / minor
    radius = (along_major**2 + along_minor**2).sqrt()
    inserted = present[:, None, None]
    contrast = _uniform(*_CONTRAST, count, 1, 1) * inserted
    lesions = contrast * torch.sigmoid((1 - radius) * 6)
    return (slices.images + lesions[:, None]).clamp(0, 1), ((radius < 1) & inserted)[:, None]


def _uniform(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape)


def draw_held_out(held_out: Slices, *, draws: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw ``draws`` images of each slice, every second one with a lesion.

    Returns:
        The grey levels 0 to 255, the labels and the masks.
    """
    count = len(held_out.images)
    indices = torch.arange(count).repeat(draws)
    present = (indices + torch.arange(draws).repeat_interleave(count)) % 2 == 1
    images, masks = _insert_lesions(held_out[indices], present)
    return (images * 255).round().to(torch.uint8), present.long(), masks


def save_lesion_slices(images: Tensor, labels: Tensor, masks: Tensor, path: Path) -> None:
    """Save the output of `draw_held_out`, as `load_lesion_slices` reads it."""
    stored = {"images": images, "labels": labels.to(torch.uint8), "masks": masks}
    np.savez_compressed(path, **{name: values.numpy() for name, values in stored.items()})


def train_lesion_classifier(slices: Slices) -> LesionNet:
    """Train on augmented slices with inserted lesions; return the network in eval mode."""
    net = LesionNet()
    *layers, _, classifier = net.children()
    # With batch normalisation this short training converges for every seed. At the end it is folded
    # into the convolutions.
    norms = {layer: nn.BatchNorm2d(layer.out_channels) for layer in _convolutions(layers)}
    body = nn.Sequential()
    for layer in layers:
        body.append(layer)
        if layer in norms:
            body.append(norms[layer])
    weights = [*body.parameters(), *classifier.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=_LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=_STEPS)
    present = torch.arange(_BATCH) % 2 == 1
    for step in range(_STEPS):
        healthy = _augment(slices[torch.randint(len(slices.images), (_BATCH,))])
        images, _ = _insert_lesions(healthy, present)
        features = body(_add_noise(images) * _INPUT_SCALE)
        loss = F.cross_entropy(classifier(features.mean(dim=(2, 3))), present.long())
        # The penalty keeps the activations sparse. Without it, the average pooling lets the network
        # spread its activations over the whole slice: just as accurate, but the maps show nothing.
        # It starts after 60 steps, so that it does not suppress features before they are learnt.
        penalty = _ACTIVITY_PENALTY * min(1.0, max(0.0, (step - 60) / 100))
        optimiser.zero_grad()
        (loss + penalty * features.mean()).backward()
        optimiser.step()
        schedule.step()
    body.eval()
    for layer, norm in norms.items():
        layer.load_state_dict(fuse_conv_bn_eval(layer, norm).state_dict())
    return net.eval()


def _convolutions(layers: list[nn.Module]) -> list[nn.Conv2d]:
    return [layer for layer in layers if isinstance(layer, nn.Conv2d)]


def _augment(slices: Slices) -> Slices:
    """Augment the slices, which show three heads only: affine, contrast, sharpness, shading."""
    count = len(slices.images)
    angle = _uniform(-0.3, 0.3, count)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    scale_x, scale_y = _uniform(0.85, 1.15, count) * mirror, _uniform(0.85, 1.15, count)
    rows = [
        torch.stack([angle.cos() * scale_x, -angle.sin() * scale_y, _uniform(-0.1, 0.1, count)], 1),
        torch.stack([angle.sin() * scale_x, angle.cos() * scale_y, _uniform(-0.1, 0.1, count)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(slices.images.shape), align_corners=False)
    images = F.grid_sample(slices.images, grid, align_corners=False)
    brain = (F.grid_sample(slices.brain, grid, align_corners=False) > 0.5).float()
    images = images ** _uniform(0.75, 1.35, count, 1, 1, 1)
    detail = images - F.avg_pool2d(images, kernel_size=3, stride=1, padding=1)
    images = (images + _uniform(-0.3, 0.8, count, 1, 1, 1) * detail).clamp(min=0)
    shading = F.interpolate(_uniform(-0.2, 0.2, count, 1, 3, 3), (_SIDE, _SIDE), mode="bicubic")
    return Slices(images * (1 + shading), brain)


def _add_noise(images: Tensor) -> Tensor:
    strength = _uniform(0, 0.03, len(images), 1, 1, 1)
    return (images + strength * torch.randn_like(images)).clamp(0, 1)


@torch.no_grad()
def score_lesions(net: LesionNet, images: Tensor, labels: Tensor, masks: Tensor) -> str:
    """Return a text with the accuracy, and the pointing game score of class activation maps."""
    *layers, _, classifier = net.children()
    features = nn.Sequential(*layers)(images / 255 * _INPUT_SCALE)
    correct = classifier(features.mean(dim=(2, 3))).argmax(dim=1) == labels
    evidence = torch.einsum("c,nchw->nhw", classifier.weight[1], features).relu()
    maps = F.interpolate(evidence[:, None], (_SIDE, _SIDE), mode="bilinear").flatten(1)
    hits = masks.flatten(1).gather(1, maps.argmax(dim=1, keepdim=True))[labels == 1]
    return f"accuracy {correct.float().mean():.3f}, pointing game {hits.float().mean():.3f}"


def concatenate(parts: list[Slices]) -> Slices:
    """Concatenate the slices of several heads."""
    return Slices(
        torch.cat([part.images for part in parts]), torch.cat([part.brain for part in parts])
    )
