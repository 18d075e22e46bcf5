"""Makes ``docs/images/placement.png``: one map, placed where its features are and stretched.

A small classifier with strided convolutions is trained on axial slices of the packaged head with
inserted lesions. Its Grad-CAM is drawn with both placements. The figures in docs/placement.md are
what this script prints.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

import medcam
from medcam import demo
from medcam.views import display_range, overlay

OUTPUT = Path(__file__).parents[1] / "docs" / "images" / "placement.png"
NETWORKS, STEPS, BATCH, EVALUATED = 8, 160, 24, 120
SIDE_MM = 1.7


def network() -> nn.Sequential:
    """Return a classifier whose last features have a stride of 16, by kernels of 3."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 24), (24, 32), (32, 48)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.Conv2d(after, after, 3, 1, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(
        nn.Sequential(*layers), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(48, 2)
    )


def slices() -> tuple[Tensor, Tensor]:
    """Return axial slices of the packaged head ``[slices, 1, 128, 128]`` and their brain masks."""
    head = demo.load_head()
    brain = demo.brain_mask_for_network(head)
    axial, inside = (_axial(v) for v in (head.image[0, 0], brain.reshape(head.image.shape[2:])))
    low, high = axial.amin(), axial.amax()
    return ((axial - low) / (high - low)).clamp(0, 1) * 0.6, inside.float()


def _axial(volume: Tensor) -> Tensor:
    """Return axial slices, anterior at the top and the patient's right on the left."""
    return volume.movedim(2, 0).transpose(1, 2).flip(1, 2)[44:92, None]


def with_lesions(
    slices_and_brain: tuple[Tensor, Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return random slices, half of them with a bright round lesion; the labels; the centres."""
    images, brain = slices_and_brain
    picked = torch.randint(len(images), (BATCH,), generator=generator)
    batch = images[picked].clone()
    labels = torch.arange(BATCH) % 2
    inside = brain[picked, 0].flatten(1)
    centres = torch.multinomial(inside, 1, generator=generator)[:, 0]
    rows, columns = centres // 128, centres % 128
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    distance = ((y - rows[:, None, None]) ** 2 + (x - columns[:, None, None]) ** 2).sqrt()
    lesion = 0.5 * torch.sigmoid((5 - distance) * 2) * labels[:, None, None]
    return (batch[:, 0] + lesion)[:, None].clamp(0, 1), labels, torch.stack([rows, columns], 1)


def train(net: nn.Module, images: tuple[Tensor, Tensor], generator: torch.Generator) -> nn.Module:
    """Train the classifier."""
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(STEPS):
        batch, labels, _ = with_lesions(images, generator)
        loss = nn.functional.cross_entropy(net(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def centroid(values: Tensor) -> Tensor:
    """Return the centroid ``[rows, columns]`` of each map ``[batch, 1, H, W]``."""
    peak = values[:, 0].clamp(min=0)
    weights = (peak - 0.3 * peak.amax((1, 2), keepdim=True)).clamp(min=0)  # without the background
    total = weights.flatten(1).sum(1).clamp(min=1e-12)
    line = torch.arange(weights.shape[1], dtype=weights.dtype)
    rows, columns = weights.sum(2) @ line / total, weights.sum(1) @ line / total
    return torch.stack([rows, columns], 1)


def main() -> None:
    """Train several networks, measure the offset of their maps, draw one example."""
    images = slices()
    offsets: dict[str, list[Tensor]] = {"features": [], "resize": []}
    for seed in range(NETWORKS):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        net = train(network(), images, generator)
        per_network, example = measure(net, images, generator)
        for placement, distances in per_network.items():
            offsets[placement].append(distances.mean(0))
            print(seed, placement, f"{distances.mean(0).tolist()} px over {len(distances)} lesions")
        if seed == 0:
            draw(*example)
    for placement, per_network in offsets.items():
        bias = torch.stack(per_network).mean(0) * SIDE_MM
        print(f"{placement}: {bias.tolist()} mm, {float(bias.norm()):.1f} mm in all")


def measure(
    net: nn.Module, images: tuple[Tensor, Tensor], generator: torch.Generator
) -> tuple[dict[str, Tensor], tuple[Tensor, dict[str, Tensor], Tensor]]:
    """Return the offsets of the maps' centroids from the lesions, and the best placed example."""
    offsets: dict[str, list[Tensor]] = {"features": [], "resize": []}
    nearest, example = torch.inf, None
    for _ in range(EVALUATED // (BATCH // 2)):
        batch, labels, centres = with_lesions(images, generator)
        maps = {
            placement: medcam.explain(net, batch, layer="0", target=1, placement=placement).map
            for placement in offsets
        }
        with torch.no_grad():
            right = (net(batch).argmax(1) == labels) & (labels == 1)
        for placement, item in maps.items():
            offsets[placement].append((centroid(item.values) - centres)[right])
        distance = (centroid(maps["features"].values) - centres).norm(dim=1)
        distance = torch.where(right, distance, torch.inf)
        index = int(distance.argmin())
        if float(distance[index]) < nearest:
            nearest = float(distance[index])
            drawn = {placement: item.values[index, 0] for placement, item in maps.items()}
            example = batch[index, 0], drawn, centres[index]
    if example is None:
        raise RuntimeError("the network found no lesion")
    return {placement: torch.cat(parts) for placement, parts in offsets.items()}, example


def draw(image: Tensor, maps: dict[str, Tensor], centre: Tensor) -> None:
    """Draw the image and the map with both placements, with the lesion marked."""
    figure, panels = plt.subplots(1, 3, figsize=(9, 3.7), layout="constrained")
    titles = {
        "features": 'placement="features"\nwhere the features lie',
        "resize": 'placement="resize"\nstretched, as elsewhere',
    }
    panels[0].imshow(display_range(image), cmap="gray")
    panels[0].set_title("slice with an inserted lesion")
    for axes, (placement, title) in zip(panels[1:], titles.items(), strict=True):
        axes.imshow(overlay(maps[placement], image))
        axes.set_title(title)
    for axes in panels:
        ring = plt.Circle((int(centre[1]), int(centre[0])), 7, fill=False, color="cyan", lw=1.2)
        axes.add_patch(ring)
        axes.set_axis_off()
    options = {"dpi": 130, "pad_inches": 0.1, "bbox_inches": "tight"}
    figure.savefig(OUTPUT, metadata={"Software": None}, **options)
    print(OUTPUT, np.round(OUTPUT.stat().st_size / 1e3), "kB")


if __name__ == "__main__":
    main()
