"""Training of the demo's lung segmenter on the CT of one patient; slices of another are packaged.

Part of ``make_demo_assets.py``. Both CT scans and their tumour masks come with pyradiomics 3.0.1.
The masks of the lungs are made here, by a threshold and morphology.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from medcam.demo.networks import LungUNet

_STORED, _SIDE = 512, 128  # side of a slice of the scans and of the network's input, in pixels
_BLOCK = _STORED // _SIDE
# Air and dense bone: the window of Hounsfield units that becomes 0 to 1.
_AIR_HU, _BONE_HU = -1000.0, 400.0
# Lung tissue is below the first; gas in the airways and in the bowel is below the second.
_LUNG_HU, _GAS_HU = -400.0, -940.0
_CLOSING_MM = 10.0  # wider than vessels and than the nodule of the training patient
_STEPS, _BATCH, _LEARNING_RATE = 500, 8, 4e-3
_KINDS = ("image", "label")
# Left-posterior-superior: columns run to the patient's left, rows to the back, slices upwards.
_LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# Neighbours within a slice, for stacks of slices.
_IN_PLANE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]
# From the base of the lungs upwards. The tumour is in the first four.
_PACKAGED = (16, 18, 20, 23, 28, 34, 40, 45)


@dataclass(frozen=True)
class Chest:
    """The axial CT slices of a chest, from the base of the lungs upwards.

    Rows run from anterior to posterior, columns from the patient's right to the left.

    Attributes:
        images: Grey levels, -1000 to 400 HU as uint8 0 to 255, ``[N, 1, 128, 128]``.
        lungs: The lungs with their vessels and tumours, without airways, bool, the same shape.
        nodules: The tumour, bool, the same shape.
        spacing: The height and the width of a pixel in mm.
    """

    images: Tensor
    lungs: Tensor
    nodules: Tensor
    spacing: tuple[float, float]

    def __getitem__(self, indices: Tensor) -> Chest:
        return Chest(self.images[indices], self.lungs[indices], self.nodules[indices], self.spacing)


def read_chest(folder: Path, name: str) -> Chest:
    """Read a patient's CT, with the masks of the tumour and of the lungs.

    Args:
        folder: The folder ``data`` of the source distribution of pyradiomics.
        name: ``lung1`` or ``lung2``.

    Raises:
        SystemExit: The files are not those of pyradiomics 3.0.1.
    """
    scan, label = (SimpleITK.ReadImage(str(folder / f"{name}_{kind}.nrrd")) for kind in _KINDS)
    for image in (scan, label):
        if image.GetSize()[:2] != (_STORED,) * 2 or image.GetDirection() != _LPS:
            raise SystemExit(f"{folder / name} are not the files of pyradiomics 3.0.1.")
    hounsfield = SimpleITK.GetArrayFromImage(scan).astype(np.float32)
    tumour = SimpleITK.GetArrayFromImage(label) > 0
    width, height, _ = scan.GetSpacing()
    lungs = _find_lungs(hounsfield, tumour, width)
    grey = (_coarse(_remove_table(hounsfield)) - _AIR_HU) / (_BONE_HU - _AIR_HU)
    images = (grey.clip(0, 1) * 255).round().astype(np.uint8)
    masks = [_coarse(mask.astype(np.float32)) > 0.5 for mask in (lungs, tumour)]
    stacks = [torch.from_numpy(values)[:, None] for values in (images, *masks)]
    return Chest(*stacks, (height * _BLOCK, width * _BLOCK))


def _coarse(values: np.ndarray) -> np.ndarray:
    """Average blocks of 4 × 4 pixels of each slice."""
    return values.reshape(len(values), _SIDE, _BLOCK, _SIDE, _BLOCK).mean((2, 4))


def _remove_table(hounsfield: np.ndarray) -> np.ndarray:
    """Fill all that is outside the body with air: the table, blankets and clothes."""
    solid = ndimage.binary_opening(hounsfield > _LUNG_HU, _IN_PLANE, iterations=4)
    parts, _ = ndimage.label(solid)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    body = np.stack([ndimage.binary_fill_holes(plane) for plane in parts == sizes.argmax()])
    return np.where(ndimage.binary_dilation(body, _IN_PLANE, iterations=2), hounsfield, _AIR_HU)


def _find_lungs(hounsfield: np.ndarray, tumour: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Return the mask of the lungs with vessels and tumour, without airways and bowel gas."""
    air = hounsfield < _LUNG_HU
    parts, count = ndimage.label(air, _IN_PLANE)
    # within a slice, the air around the body reaches the border
    border = np.concatenate([parts[:, [0, -1]].ravel(), parts[:, :, [0, -1]].ravel()])
    # an airway's wall raises its mean, so the pixels at the edge of a part do not count
    core = np.where(ndimage.binary_erosion(air, _IN_PLANE, iterations=2), parts, 0)
    sizes = np.bincount(core.ravel(), minlength=count + 1)
    sums = np.bincount(core.ravel(), hounsfield.ravel(), minlength=count + 1)
    kept = sums >= _GAS_HU * sizes
    kept[0] = False
    kept[np.unique(border)] = False
    # remains of airways are not connected to the lungs
    parts, _ = ndimage.label(kept[parts])
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    lungs = np.isin(parts, np.flatnonzero(sizes > 0.1 * sizes.max()))
    return _close(lungs | tumour, pixel_mm)


def _close(lungs: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Return the lungs with the gaps of vessels and at the tumour filled, slice by slice."""
    radius = round(_CLOSING_MM / pixel_mm)
    whole = np.zeros(lungs.shape, bool)
    for plane, closed in zip(lungs, whole, strict=True):
        # one by one: the gap between the lungs stays open
        pieces, count = ndimage.label(plane)
        for number in range(1, count + 1):
            piece = np.pad(pieces == number, radius)
            far = ndimage.distance_transform_edt(~piece) <= radius
            shrunk = ndimage.distance_transform_edt(far) > radius
            filled = ndimage.binary_fill_holes(shrunk | piece)
            closed |= filled[radius:-radius, radius:-radius]
    return whole


def train_lung_segmenter(chest: Chest) -> LungUNet:
    """Train with cross-entropy and Dice loss, on augmented slices, with deep supervision.

    Deep supervision, as of nnU-Net: a head that is dropped after the training predicts the lungs
    from ``decoder3`` too. Without it, that layer shares its work with the skip connections as it
    likes, and less than half of its Grad-CAM is in the lungs.
    """
    pair = torch.cat([chest.images / 255, chest.lungs.float()], dim=1)
    net = LungUNet()
    deep_head = nn.Conv2d(32, 1, kernel_size=1)
    deep: list[Tensor] = []
    handle = net.decoder3.register_forward_hook(lambda *call: deep.append(deep_head(call[-1])))
    weights = [*net.parameters(), *deep_head.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=_LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=_STEPS)
    for _ in range(_STEPS):
        images, masks = _augment(pair[torch.randint(len(pair), (_BATCH,))])
        loss = _loss(net(images), masks) + 0.5 * _loss(deep.pop(), F.avg_pool2d(masks, 4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    handle.remove()
    # the file holds half precision, so the scores are of the rounded weights
    return net.half().float().eval()


def _loss(logits: Tensor, masks: Tensor) -> Tensor:
    predicted = logits.sigmoid()
    dice = (2 * (predicted * masks).sum() + 1) / (predicted.sum() + masks.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + 1 - dice


def save_lung_segmenter(net: LungUNet, path: Path) -> None:
    """Save the weights in half precision, as `load_lung_segmenter` reads them."""
    torch.save({name: _halve(value) for name, value in net.state_dict().items()}, path)


def _halve(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def _augment(pair: Tensor) -> tuple[Tensor, Tensor]:
    """Augment the slices, which show one patient only: affine, mirrored, contrast, noise.

    Args:
        pair: The images and their masks, ``[B, 2, 128, 128]``.
    """
    count = len(pair)
    angle = _uniform(-0.2, 0.2, count)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    scale_x, scale_y = _uniform(0.8, 1.3, count) * mirror, _uniform(0.8, 1.3, count)
    rows = [
        torch.stack([angle.cos() * scale_x, -angle.sin() * scale_y, _uniform(-0.2, 0.2, count)], 1),
        torch.stack([angle.sin() * scale_x, angle.cos() * scale_y, _uniform(-0.2, 0.2, count)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(pair.shape), align_corners=False)
    images, masks = F.grid_sample(pair, grid, align_corners=False).split(1, dim=1)
    images = images.clamp(0, 1) ** _uniform(-0.3, 0.3, count, 1, 1, 1).exp()
    images = images * _uniform(0.85, 1.15, count, 1, 1, 1) + _uniform(-0.05, 0.05, count, 1, 1, 1)
    noise = _uniform(0, 0.05, count, 1, 1, 1) * torch.randn_like(images)
    return (images + noise).clamp(0, 1), (masks > 0.5).float()


def _uniform(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape)


def choose_slices(chest: Chest) -> Chest:
    """Return the packaged slices."""
    return chest[torch.tensor(_PACKAGED)]


def save_lungs(chest: Chest, path: Path) -> None:
    """Save slices as `load_lung_slices` reads them."""
    stored = {
        "images": chest.images.numpy(),
        "lungs": chest.lungs.numpy(),
        "nodules": chest.nodules.numpy(),
        "spacing": np.array(chest.spacing),
    }
    np.savez_compressed(path, **stored)


@torch.no_grad()
def score_lungs(net: LungUNet, chest: Chest) -> str:
    """Return a text with the Dice coefficient over all slices, and the tumour's found share."""
    predicted = net(chest.images / 255) > 0
    dice = 2 * (predicted & chest.lungs).sum() / (predicted.sum() + chest.lungs.sum())
    found = predicted[chest.nodules].float().mean() if chest.nodules.any() else math.nan
    return f"Dice {dice:.3f}, share of the tumour predicted as lung {found:.3f}"
