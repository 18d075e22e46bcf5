"""Training of the demo's nuclei segmenter on one half of a micrograph; the other is packaged.

Part of ``make_demo_assets.py``. The micrograph and the instance labels of its nuclei come with
stardist 0.9.2; they are from the 2018 Data Science Bowl.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from medcam.demo.networks import NucleiUNet

_WHOLE, _TILE = 512, 128  # side of the micrograph and of a packaged tile, in pixels
# The package divides grey levels by this, so that most nuclei are near 1.
_GREY_SCALE = 64.0
_STEPS, _BATCH, _CROP, _LEARNING_RATE = 400, 8, 96, 4e-3


@dataclass(frozen=True)
class Half:
    """Half of the micrograph.

    Attributes:
        image: The grey levels, uint8 ``[256, 512]``.
        instances: One number per nucleus, 0 for the background, uint8 ``[256, 512]``.
    """

    image: Tensor
    instances: Tensor


def read_nuclei(stardist: Path) -> tuple[Half, Half]:
    """Read the upper half of the micrograph, for training, and the lower half, held out.

    Args:
        stardist: The folder of the package.

    Raises:
        SystemExit: The files are not those of stardist 0.9.2.
    """
    folder = stardist / "data" / "images"
    image, instances = (_read(folder / name) for name in ("img2d.tif", "mask2d.tif"))
    middle = _WHOLE // 2
    return Half(image[:middle], instances[:middle]), Half(image[middle:], instances[middle:])


def _read(path: Path) -> Tensor:
    with Image.open(path) as image:
        values = np.asarray(image)
    # the files are 16-bit, but their largest value is 235
    if values.shape != (_WHOLE, _WHOLE) or values.max() > 255:
        raise SystemExit(f"{path} is not the file of stardist 0.9.2.")
    return torch.from_numpy(values.astype(np.uint8))


def train_nuclei_segmenter(half: Half) -> NucleiUNet:
    """Train with the sum of cross-entropy and Dice loss, on augmented crops."""
    pair = torch.stack([half.image.float() / _GREY_SCALE, (half.instances > 0).float()])
    net = NucleiUNet()
    optimiser = torch.optim.AdamW(net.parameters(), lr=_LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=_STEPS)
    for _ in range(_STEPS):
        crops, masks = _draw_crops(pair)
        logits = net(crops)
        predicted = logits.sigmoid()
        dice = (2 * (predicted * masks).sum() + 1) / (predicted.sum() + masks.sum() + 1)
        loss = F.binary_cross_entropy_with_logits(logits, masks) + 1 - dice
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def _draw_crops(pair: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a batch of crops and masks ``[B, 1, 96, 96]``: rotated, mirrored, brightened, noisy.

    Args:
        pair: The image and its mask, ``[2, height, width]``.
    """
    crops = []
    for _ in range(_BATCH):
        rotations, mirror = (int(torch.randint(n, ())) for n in (4, 2))
        top, left = (int(torch.randint(n - _CROP + 1, ())) for n in pair.shape[1:])
        crop = pair[:, top : top + _CROP, left : left + _CROP].rot90(rotations, dims=(1, 2))
        crops.append(crop.flip(2) if mirror else crop)
    batch = torch.stack(crops)
    brightness = torch.empty(_BATCH, 1, 1, 1).uniform_(-0.5, 0.5).exp()
    noise = 0.05 * torch.rand(_BATCH, 1, 1, 1) * torch.randn(_BATCH, 1, _CROP, _CROP)
    return batch[:, :1] * brightness + noise, batch[:, 1:]


def save_nuclei(half: Half, path: Path) -> None:
    """Save a half as tiles ``[8, 1, 128, 128]``, row by row, as `load_nuclei` reads them."""
    tiles = {"images": _tiles(half.image), "instances": _tiles(half.instances)}
    np.savez_compressed(path, **{name: values.numpy() for name, values in tiles.items()})


def _tiles(half: Tensor) -> Tensor:
    rows = half.unflatten(0, (-1, _TILE)).unflatten(2, (-1, _TILE))
    return rows.transpose(1, 2).flatten(0, 1)[:, None].contiguous()


@torch.no_grad()
def score_nuclei(net: NucleiUNet, half: Half) -> str:
    """Return a text with the Dice coefficient over all packaged tiles together."""
    predicted = net(_tiles(half.image).float() / _GREY_SCALE) > 0
    masks = _tiles(half.instances) > 0
    dice = 2 * (predicted & masks).sum() / (predicted.sum() + masks.sum())
    return f"Dice {dice:.3f}"
