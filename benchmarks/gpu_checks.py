"""Compare a GPU with the CPU: maps of every method, volumes, trust checks, injected models.

    python benchmarks/gpu_checks.py        # two minutes on a machine with a CUDA GPU

Prints one line a comparison, writes ``results/gpu-checks-DATE.md``, and ends with exit code 1 if a
figure is out of tolerance. CI has no GPU, so this is run by hand on a machine that has. ``--device
cpu`` compares the CPU with itself, to try the script.
"""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import medcam
from medcam import demo, methods, targets

RESULTS = Path(__file__).parent / "results"
Line = tuple[str, str, bool]
"""What was compared, the figure, and whether it is within tolerance."""

REPLAYED: dict[str, Any] = {
    "intgrad": methods.intgrad(baseline="mean", steps=6),
    "occlusion": methods.occlusion(size=16),
    "rise": methods.rise(masks=24),
    "smoothgrad": methods.smoothgrad("gcam", samples=3),
    "scorecam": methods.scorecam(channels=8),
    "ablationcam": methods.ablationcam(channels=8),
}


class Volumes(nn.Module):
    """A small 3D segmentation network with two scales and instance norm."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.InstanceNorm3d(6), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv3d(6, 8, 3, padding=1, stride=2), nn.ReLU())
        self.up = nn.ConvTranspose3d(8, 6, 2, stride=2)
        self.head = nn.Conv3d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of the size of the input."""
        fine = self.fine(x)
        logits: Tensor = self.head(torch.cat([fine, self.up(self.coarse(fine))], 1))
        return logits


def difference(first: Tensor, second: Tensor) -> float:
    """Return the largest difference of two tensors relative to the largest value."""
    first, second = first.detach().cpu().double(), second.detach().cpu().double()
    return float((first - second).abs().max() / first.abs().max().clamp(min=1e-12))


def tissue() -> tuple[nn.Module, Tensor]:
    """Return the lesion classifier with six slices that hold a lesion."""
    slices = demo.load_lesion_slices()
    return demo.load_lesion_classifier(), slices.images[slices.labels == 1][:6]


def volume_and_net() -> tuple[nn.Module, Tensor]:
    """Return the 3D network with a smooth volume."""
    torch.manual_seed(0)
    net = Volumes().eval()
    return net, nn.functional.avg_pool3d(torch.randn(1, 1, 42, 44, 36), 3, 1)


def maps_of_images(device: str) -> list[Line]:
    """Compare the maps of every method on the classifier."""
    lines = []
    net, images = tissue()
    on_device = copy.deepcopy(net).to(device)
    asked = {name: name for name in methods.METHODS if not methods.METHODS[name].replays}
    for name, method in {**asked, **REPLAYED}.items():
        options: dict[str, Any] = {"method": method, "layer": "relu6", "target": 1}
        here = medcam.explain(net, images, **options).map
        there = medcam.explain(on_device, images.to(device), **options).map
        far = difference(here.values, there.values)
        lines.append((f"classifier, {name}", f"{far:.1e}", far < 1e-3))
    return lines


def maps_of_volumes(device: str) -> list[Line]:
    """Compare maps in windows, with the volume on either device and the sums on the CPU."""
    lines = []
    net, volume = volume_and_net()
    on_device = copy.deepcopy(net).to(device)
    where = torch.zeros(1, *volume.shape[2:], dtype=torch.bool)
    where[:, 12:24, 10:22, 8:20] = True
    asked = ["hirescam", "layercam", "eigencam", "saliency", "gbp", "ggcam"]
    again = ["intgrad", "occlusion", "smoothgrad"]
    for name, method in {
        **{name: name for name in asked},
        **{n: REPLAYED[n] for n in again},
    }.items():
        options: dict[str, Any] = {
            "roi_size": 24, "overlap": 0.5, "layer": "coarse", "method": method,
            "target": targets.region(where, 1), "mirror_axes": (2,), "sw_batch_size": 2,
        }  # fmt: skip
        here = medcam.explain_volume(net, volume, **options).map
        for place, moved in (("volume on the CPU", volume), ("volume there", volume.to(device))):
            there = medcam.explain_volume(on_device, moved, **options, device="cpu").map
            far = difference(here.values, there.values)
            lines.append((f"windows, {name}, {place}", f"{far:.1e}", far < 2e-3))
    return lines


def trust(device: str) -> list[Line]:
    """Compare checks; the model, its buffers and the random numbers have to stay as they are."""
    lines: list[Line] = []
    net, images = tissue()
    on_device, moved = copy.deepcopy(net).to(device), images.to(device)
    before = {name: value.clone() for name, value in on_device.state_dict().items()}
    torch.manual_seed(3)
    states = torch.get_rng_state(), _device_random(device)
    options: dict[str, Any] = {"target": 1, "layer": ["relu4", "relu6"], "artefact": True}
    here = medcam.check(net, images, **options)
    start = time.perf_counter()
    there = medcam.check(on_device, moved, **options)
    lines.append(("check with a marker, 6 slices", f"{time.perf_counter() - start:.1f} s", True))
    same = all(torch.equal(value, before[name]) for name, value in on_device.state_dict().items())
    lines.append(("check leaves the weights", str(same), same))
    kept = torch.equal(states[0], torch.get_rng_state())
    kept = kept and (states[1] is None or torch.equal(states[1], _device_random(device)))  # type: ignore[arg-type]
    lines.append(("check leaves the random numbers", str(kept), kept))
    words = [(a.name, a.word, b.word) for a, b in zip(here.maps, there.maps, strict=True)]
    unlike = [item for item in words if item[1] != item[2]]
    lines.append(
        (f"verdicts of {len(words)} maps", f"unlike: {unlike or 'none'}", len(unlike) <= 1)
    )
    far = max(
        abs(a.verdicts["T4"].estimate.value - b.verdicts["T4"].estimate.value)
        for a, b in zip(here.maps, there.maps, strict=True)
    )
    lines.append(("T4 of these", f"{far:.1e}", far < 0.01))
    lines.append(("hiding map", f"{difference(here.hiding.values, there.hiding.values):.1e}", True))  # type: ignore[union-attr]
    segmenter, volume = volume_and_net()
    check = medcam.check(
        segmenter.to(device), volume, roi_size=24, target=targets.class_score(1), sets=16,
        networks=2, noises=1, method=["hirescam", "saliency"], layer="coarse", spacing=(1, 1, 2),
    )  # fmt: skip
    lines.append(("check in windows, volume on the CPU", check.maps[0].word, len(check.maps) == 2))
    again = medcam.agreement(
        [on_device, copy.deepcopy(on_device)], moved, method="gcam", layer="relu6", target=1,
        noises=2, mirror_axes=(1,),
    )  # fmt: skip
    low = float(again.correlation.min())
    lines.append(("agreement of two equal networks", f"{low:.2f}", low > 0.5))
    return lines


def _device_random(device: str) -> Tensor | None:
    return torch.cuda.get_rng_state() if device.startswith("cuda") else None


def injected(device: str) -> list[Line]:
    """Compare a training step with and without maps, and two replicas of DataParallel."""
    lines: list[Line] = []
    net, images = tissue()
    labels = torch.ones(len(images), dtype=torch.long, device=device)
    gradients = []
    for with_maps in (False, True):
        model = copy.deepcopy(net).to(device)
        if with_maps:
            model = medcam.inject(model, layer="relu6", label=1)
        loss = nn.functional.cross_entropy(model(images.to(device)), labels)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    far = max(difference(a, b) for a, b in zip(*gradients, strict=True))
    lines.append(("a training step with maps", f"{far:.1e}", far < 1e-6))
    if device.startswith("cuda"):
        inside = medcam.inject(copy.deepcopy(net).to(device), layer="relu6", label=1)
        parallel = nn.DataParallel(inside, device_ids=[0, 0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = parallel(images.to(device))
        far = difference(net(images), outputs)
        lines.append(("two replicas of DataParallel, outputs", f"{far:.1e}", far < 1e-4))
    return lines


def memory(device: str) -> list[Line]:
    """No memory is held after a check."""
    if not device.startswith("cuda"):
        return []
    net, images = tissue()
    net, images = net.to(device), images.to(device)
    sizes = []
    for _ in range(3):
        medcam.check(net, images, target=1, method="gcam", layer="relu6", sets=16, networks=2)
        sizes.append(torch.cuda.memory_allocated())
    return [
        (
            "memory after three checks",
            f"{(sizes[2] - sizes[0]) / 2**20:.2f} MiB more",
            sizes[2] == sizes[0],
        )
    ]


PARTS: dict[str, Callable[[str], list[Line]]] = {
    "maps of images": maps_of_images,
    "maps of volumes in windows": maps_of_volumes,
    "trust": trust,
    "injected models": injected,
    "memory": memory,
}


def main() -> int:
    """Run all comparisons; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("There is no CUDA GPU: nothing is compared.")
        return 0
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    today = dt.datetime.now(tz=dt.timezone.utc).date()
    rows = [f"{name}, torch {torch.__version__}, {today}: maps and verdicts beside the CPU's.", ""]
    rows += ["| comparison | largest difference | |", "|---|---|---|"]
    is_right = True
    for title, part in PARTS.items():
        try:
            lines = part(options.device)
        except Exception:  # noqa: BLE001  # the other parts run
            traceback.print_exc()
            lines = [(title, "fails", False)]
        for what, figure, right in lines:
            is_right &= right
            rows.append(f"| {what} | {figure} | {'' if right else 'NOT RIGHT'} |")
            print(rows[-1], flush=True)
    if options.device.startswith("cuda"):
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"gpu-checks-{today}.md").write_text("\n".join(rows) + "\n")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
