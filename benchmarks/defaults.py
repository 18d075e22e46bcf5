"""Faithfulness of the default maps of segmentations: the table of docs/methods.md.

    python benchmarks/defaults.py [--seconds 45] [--networks nnunet2d fcn ...]

Small networks are trained on synthetic tasks. Of each image, random sets of blocks are replaced by
its mean, and the sum of the map in a set is correlated with the drop of the score, the number of
blocks partialled out. A random map has 0. Needs monai and dynamic_network_architectures.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

import medcam
from medcam.targets import region

TASKS = ("blobs", "rims", "sizes")
METHODS = ("gcam", "gcampp", "hirescam", "layercam", "segxrescam")
SETS = {2: 96, 3: 64}
BLOCK = {2: 8, 3: 4}


# ---------------------------------------------------------------------------------------- the data


def smooth_noise(shape: Sequence[int], sigma: int, generator: torch.Generator) -> Tensor:
    """Return smooth noise of unit deviation."""
    noise = torch.randn(shape, generator=generator).numpy()
    values = ndimage.gaussian_filter(noise, sigma, mode="reflect")
    return torch.from_numpy(values / values.std()).float()


def sample(shape: Sequence[int], task: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return an image ``[*shape]`` with three to five blobs, and its labels."""
    dims = len(shape)
    image = 0.5 * smooth_noise(shape, 6 - 2 * (dims - 1), generator)
    image += 0.2 * torch.randn(shape, generator=generator)
    labels = torch.zeros(shape, dtype=torch.long)
    axes = torch.meshgrid(*[torch.arange(extent).float() for extent in shape], indexing="ij")
    for number in range(int(torch.randint(3, 6, (1,), generator=generator))):
        place = [float(torch.rand(1, generator=generator)) * (e - 12) + 6 for e in shape]
        radius = float(torch.rand(1, generator=generator)) * 3 + (4 if dims == 2 else 3)
        distance = sum((axis - c).square() for axis, c in zip(axes, place, strict=True)).sqrt()
        is_first_kind = number % 2 == 0
        if task == "blobs":
            image[distance < radius] += 2.0
            labels[distance < radius] = 1
        elif task == "rims":  # a blob counts if it has a bright rim
            image[distance < radius] += 1.2
            if is_first_kind:
                image[(distance >= radius) & (distance < radius + 2)] += 2.5
                labels[(distance < radius) & (labels == 0)] = 1
        else:  # small and large blobs
            inside = distance < radius * (1.8 if is_first_kind else 1.0)
            image[inside] = 2.0 + 0.2 * torch.randn(int(inside.sum()), generator=generator)
            labels[inside] = 2 if is_first_kind else 1
    return image, labels


def samples(shape: Sequence[int], task: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images ``[count, 1, *shape]`` and labels ``[count, *shape]``."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = zip(*(sample(shape, task, generator) for _ in range(count)), strict=True)
    return torch.stack(images)[:, None], torch.stack(labels)


# ------------------------------------------------------------------------------------ the networks


class UNet(nn.Module):
    """A U-Net of four levels with a norm after each convolution."""

    def __init__(self, classes: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()

        def block(inside: int, out: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inside, out, 3, padding=1), norm(out), nn.ReLU(),
                nn.Conv2d(out, out, 3, padding=1), norm(out), nn.ReLU(),
            )  # fmt: skip

        widths = (16, 32, 64, 128)
        self.down = nn.ModuleList(block(a, b) for a, b in pairwise((1, *widths)))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(block(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        skips = []
        for level, stage in enumerate(self.down):
            x = stage(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in (2, 1, 0):
            x = self.decoder[level](torch.cat([skips[level], self.ups[level](x)], 1))
        return self.head(x)


def nnunet(dims: int, stages: int, classes: int) -> nn.Module:
    """Return nnU-Net's plain network with 16 features in the first stage."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    return PlainConvUNet(
        1, stages, [16 * 2**i for i in range(stages)], conv, [[3] * dims] * stages,
        [[1] * dims, *[[2] * dims] * (stages - 1)], [2] * stages, classes, [2] * (stages - 1), True,
        norm, {"eps": 1e-5, "affine": True}, None, None, nn.LeakyReLU, {"inplace": True},
        deep_supervision=False,
    )  # fmt: skip


def networks() -> dict[str, tuple[int, Callable[[int], nn.Module]]]:
    """Return by name the number of axes, and a function of the number of classes."""
    from monai.networks import nets

    def fcn(classes: int) -> nn.Module:
        parts = []
        for a, b, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
            parts += [nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU()]
        up = nn.Upsample(scale_factor=4, mode="bilinear")
        return nn.Sequential(nn.Sequential(*parts), nn.Conv2d(64, classes, 1), up)

    widths = (16, 32, 64, 128)
    return {
        "nnU-Net 2D": (2, lambda c: nnunet(2, 5, c)),
        "U-Net, batch norm": (2, lambda c: UNet(c, nn.BatchNorm2d)),
        "U-Net, instance norm": (2, lambda c: UNet(c, nn.InstanceNorm2d)),
        "MONAI UNet": (2, lambda c: nets.UNet(2, 1, c, widths, (2, 2, 2), num_res_units=2)),
        "SegResNet": (2, lambda c: nets.SegResNet(2, 16, 1, c)),
        "AttentionUnet": (2, lambda c: nets.AttentionUnet(2, 1, c, widths, (2, 2, 2))),
        "BasicUNet": (2, lambda c: nets.BasicUNet(2, 1, c, (16, 16, 32, 64, 128, 16))),
        "FCN": (2, fcn),
        "DynUNet": (2, lambda c: nets.DynUNet(
            2, 1, c, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=widths)),
        "nnU-Net 3D": (3, lambda c: nnunet(3, 4, c)),
        "MONAI UNet 3D": (3, lambda c: nets.UNet(3, 1, c, (16, 32, 64), (2, 2))),
    }  # fmt: skip


def train(net: nn.Module, shape: Sequence[int], task: str, seconds: float) -> nn.Module:
    """Train with cross entropy and Dice for some seconds."""
    dims = len(shape)
    images, labels = samples(shape, task, 160 if dims == 2 else 48, 0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    generator, begin = torch.Generator().manual_seed(0), time.time()
    net.train()
    while (share := (time.time() - begin) / seconds) < 1:
        chosen = torch.randint(0, len(images), (4 if dims == 2 else 2,), generator=generator)
        logits = net(images[chosen])
        hot = F.one_hot(labels[chosen], logits.shape[1]).movedim(-1, 1).float()
        p, axes = logits.softmax(1), tuple(range(2, dims + 2))
        dice = 1 - (2 * (p * hot).sum(axes) + 1) / (p.sum(axes) + hot.sum(axes) + 1)
        loss = F.cross_entropy(logits, labels[chosen]) + dice[:, 1:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * max(0.02, 1 - share)
    return net.eval()


# ------------------------------------------------------------------------------------- the measure


def partial_correlation(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    """Return the correlation of ``a`` and ``b`` with ``c`` partialled out."""
    basis = np.stack([np.ones_like(c), c], 1)
    a, b = (y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0] for y in (a, b))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-30))


@torch.no_grad()
def faithfulness(
    net: nn.Module, image: Tensor, score: Callable[[Tensor], Tensor], block: int
) -> Callable[[Tensor], float]:
    """Return a function of a map ``[*space]`` that gives its partial faithfulness."""
    space, dims = image.shape[2:], image.ndim - 2
    cells = [-(-extent // block) for extent in space]
    count, generator = int(np.prod(cells)), np.random.default_rng(0)
    sets = np.zeros((SETS[dims], count), bool)
    for row in sets:
        size = max(1, round(count * generator.uniform(0.02, 0.15)))
        row[generator.choice(count, size, replace=False)] = True
    masks = torch.from_numpy(sets).view(len(sets), *cells)
    for axis, extent in enumerate(space):
        masks = masks.repeat_interleave(block, 1 + axis).narrow(1 + axis, 0, extent)
    filled = torch.where(masks[:, None], image.mean(), image)
    drops = score(net(image)) - torch.cat([score(net(part)) for part in filled.split(16)])

    def of_map(values: Tensor) -> float:
        sums = (masks * values).flatten(1).sum(1)
        return partial_correlation(sums.numpy(), drops.numpy(), sets.sum(1).astype(float))

    return of_map


def measure(net: nn.Module, image: Tensor) -> dict[tuple[str, str, str], float]:
    """Return the faithfulness by kind of target, layer and method."""
    with torch.no_grad():
        predicted = net(image).argmax(1)
    components, _ = ndimage.label(predicted[0].numpy() > 0)
    largest = torch.from_numpy(components == np.bincount(components.flat)[1:].argmax() + 1)
    k = int(predicted[0][largest].mode().values)
    results = {}
    for kind, inside, label, target in (
        ("class", predicted[0] > 0, predicted, None),
        ("part", largest, torch.full_like(predicted, k), region(largest, k)),
    ):

        def score(z: Tensor, inside: Tensor = inside, label: Tensor = label) -> Tensor:
            index = label[:, None].expand(len(z), -1, *label.shape[1:])
            return (z.gather(1, index)[:, 0] * inside).flatten(1).sum(1) / inside.sum()

        default = medcam.explain(net, image, target=target)
        first = default.details.get("layers_passed_over", [{"layer": default.layer}])[0]["layer"]
        maps = medcam.explain(
            net, image, target=target, layer=list(dict.fromkeys([first, default.layer])),
            method=METHODS,
        ).maps  # fmt: skip
        step = int(max(default.map.grid.step))
        of_map = faithfulness(net, image, score, max(BLOCK[image.ndim - 2], step))
        results[kind, "default", ""] = of_map(default.map.values[0, 0])
        for (method, layer), item in maps.items():
            place = "automatic" if layer == default.layer else "deepest"
            results[kind, place, method] = of_map(item.values[0, 0])
    return results


def main() -> None:
    """Train the networks, and print the mean and the number of maps below 0.5."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=45, help="of training for each network")
    parser.add_argument("--networks", nargs="*", default=list(networks()))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    values: dict[tuple[str, str, str], list[float]] = {}
    for name in options.networks:
        dims, make = networks()[name]
        shape = [96, 96] if dims == 2 else [40, 40, 40]
        for task in TASKS if dims == 2 else ["rims"]:
            torch.manual_seed(0)
            net = train(make(3 if task == "sizes" else 2), shape, task, options.seconds)
            for image in samples(shape, task, 2, 777)[0].split(1):
                for key, value in measure(net, image).items():
                    values.setdefault(key, []).append(value)
            print(f"{name}, {task}", flush=True)
    for key, items in sorted(values.items()):
        below = sum(value < 0.5 for value in items)
        print(f"{' '.join(key):32} {np.mean(items):5.2f}  below .5: {below} of {len(items)}")


if __name__ == "__main__":
    main()
