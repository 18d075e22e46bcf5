"""Loaders of the packaged head scan, lesion slices, lung slices, micrographs and networks.

Nothing is downloaded. The sources and licences are in ``medcam/demo/data/LICENSES.md``; the script
that makes all files is ``tools/make_demo_assets.py`` in the source tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .networks import BrainUNet, LesionNet, LungUNet, NucleiUNet
from .stored import data_path, load_weights

__all__ = [
    "Head",
    "LesionSlices",
    "LungSlices",
    "Nuclei",
    "brain_mask_for_network",
    "load_brain_segmenter",
    "load_head",
    "load_lesion_classifier",
    "load_lesion_slices",
    "load_lung_segmenter",
    "load_lung_slices",
    "load_nuclei",
    "load_nuclei_segmenter",
]

_NETWORK_SIDE = 128
# The stored bytes 0 to 255 become 0 to 4, as in the classifier's training: white matter is near 2.
_SLICE_SCALE = 4.0
# The grey level that becomes 1 for the nuclei segmenter: about the level of most nuclei.
_NUCLEI_GREY = 64.0


@dataclass(frozen=True)
class Head:
    """A T1 head scan with its brain mask, on its own grid and on the network's.

    Attributes:
        image: The input of `BrainUNet`, float32 ``[1, 1, 128, 128, 128]`` in [0, 1].
        network_affine: The affine of ``image``, from voxel indices to mm (RAS+), ``[4, 4]``. A map
            of ``image`` that is saved with this affine overlays the head in a viewer.
        volume: The scan as stored, float32 ``[91, 109, 91]``.
        mask: The brain mask of ``volume``, bool, of the same shape.
        affine: The affine of ``volume``, from voxel indices to mm (RAS+), ``[4, 4]``.
        path: The NIfTI file of ``volume``.
        mask_path: The NIfTI file of ``mask``.
    """

    image: Tensor
    network_affine: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    affine: npt.NDArray[np.float64]
    path: Path
    mask_path: Path


@dataclass(frozen=True)
class LesionSlices:
    """Held-out head slices for the lesion classifier; every second one has a lesion.

    Attributes:
        images: The input of `LesionNet`, float32 ``[N, 1, 64, 64]``, background 0. The slices are
            axial, from the base of the skull upwards. Rows run from anterior to posterior, columns
            from the patient's left to the right.
        labels: int64 ``[N]``; 0: lesion absent, 1: lesion present.
        masks: The exact lesion masks, bool ``[N, 1, 64, 64]``; empty if there is no lesion.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class LungSlices:
    """Held-out axial CT slices of a chest for the lung segmenter; half of them show a tumour.

    The slices go from the base of the lungs upwards. They are shown as in radiology: rows run from
    anterior to posterior, columns from the patient's right to the left.

    Attributes:
        images: The input of `LungUNet`, float32 ``[N, 1, 128, 128]`` in [0, 1]: 0 is -1000 HU or
            less, 1 is 400 HU or more. The table and all else outside the body is 0.
        lungs: The mask of the lungs with their vessels and the tumour, without the airways outside
            them, bool ``[N, 1, 128, 128]``.
        nodules: The mask of the tumour, bool ``[N, 1, 128, 128]``; empty if a slice has none.
        spacing: The height and the width of a pixel in mm.
    """

    images: Tensor
    lungs: Tensor
    nodules: Tensor
    spacing: tuple[float, float]


@dataclass(frozen=True)
class Nuclei:
    """Held-out fluorescence micrographs of cell nuclei for the nuclei segmenter.

    Attributes:
        images: The input of `NucleiUNet`, float32 ``[N, 1, 128, 128]``; most nuclei are near 1.
        masks: The mask of all nuclei, bool ``[N, 1, 128, 128]``.
        instances: The instance labels, int64 ``[N, 1, 128, 128]``: one number per nucleus, 0 for
            the background. A nucleus across the border of two tiles has the same number in both.
    """

    images: Tensor
    masks: Tensor
    instances: Tensor


def load_head() -> Head:
    """Load one person's head, in MNI space at 2 mm, with the brain mask of the MNI152 template.

    Example:
        >>> head = load_head()
        >>> head.volume.shape, tuple(head.image.shape)
        ((91, 109, 91), (1, 1, 128, 128, 128))
    """
    path, mask_path = data_path("head.nii.gz"), data_path("head_brain_mask.nii.gz")
    scan = nib.Nifti1Image.from_filename(path)
    volume: npt.NDArray[np.float32] = scan.get_fdata(dtype=np.float32)
    affine: npt.NDArray[np.float64] = scan.affine
    mask = np.asarray(nib.Nifti1Image.from_filename(mask_path).dataobj) > 0
    image = _to_network_grid(torch.from_numpy(volume)).clamp(min=0)
    return Head(
        image=image / image.max(),
        network_affine=_network_affine(affine, volume.shape),
        volume=volume,
        mask=mask,
        affine=affine,
        path=path,
        mask_path=mask_path,
    )


def brain_mask_for_network(head: Head) -> Tensor:
    """Resample the brain mask to the grid of ``head.image``, by nearest neighbour.

    Args:
        head: The head of `load_head`.

    Returns:
        The mask, bool ``[1, 1, 128, 128, 128]``.

    Example:
        >>> mask = brain_mask_for_network(load_head())
        >>> f"{mask.float().mean():.2f} of the volume is brain"
        '0.26 of the volume is brain'
    """
    # mode "nearest" would shift the mask by up to half a voxel against the trilinear image
    mask = torch.from_numpy(head.mask).float()[None, None]
    return F.interpolate(mask, (_NETWORK_SIDE,) * 3, mode="nearest-exact") > 0.5


def load_brain_segmenter() -> BrainUNet:
    """Load the trained brain segmenter, in eval mode on the CPU.

    On the head of `load_head` the Dice coefficient with the brain mask is 0.958.

    Example:
        >>> sum(weight.numel() for weight in load_brain_segmenter().parameters())
        171465
    """
    return load_weights(BrainUNet(), "brain_segmenter.pt")


def load_lesion_classifier() -> LesionNet:
    """Load the trained lesion classifier, in eval mode on the CPU.

    Example:
        >>> slices = load_lesion_slices()
        >>> logits = load_lesion_classifier()(slices.images)
        >>> bool((logits.argmax(1) == slices.labels).float().mean() > 0.85)
        True
    """
    return load_weights(LesionNet(), "lesion_classifier.pt")


def load_lesion_slices() -> LesionSlices:
    """Load the held-out slices for the lesion classifier, with labels and exact masks.

    The slices show the head of `load_head`; the classifier was trained on three other heads. The
    lesions are bright ellipses with soft edges, inserted at random positions in the brain.

    Example:
        >>> slices = load_lesion_slices()
        >>> tuple(slices.images.shape), int(slices.labels.sum())
        ((32, 1, 64, 64), 16)
    """
    with np.load(data_path("lesion_slices.npz"), allow_pickle=False) as stored:
        images, labels, masks = stored["images"], stored["labels"], stored["masks"]
    return LesionSlices(
        images=torch.from_numpy(images).float() / 255 * _SLICE_SCALE,
        labels=torch.from_numpy(labels).long(),
        masks=torch.from_numpy(masks).bool(),
    )


def load_lung_segmenter() -> LungUNet:
    """Load the trained lung segmenter, in eval mode on the CPU.

    It was trained on the CT of one patient. On the slices of another, of `load_lung_slices`, the
    Dice coefficient with the lungs is 0.978. What it misses is the tumour: in the training there
    was only a nodule of 1 cm.

    Example:
        >>> slices = load_lung_slices()
        >>> predicted = load_lung_segmenter()(slices.images) > 0
        >>> dice = 2 * (predicted & slices.lungs).sum() / (predicted.sum() + slices.lungs.sum())
        >>> bool(dice > 0.96)
        True
    """
    return load_weights(LungUNet(), "lung_segmenter.pt")


def load_lung_slices() -> LungSlices:
    """Load eight axial slices of a patient's CT, with the masks of the lungs and a lung tumour.

    The CT and the mask of the tumour are the case ``lung2`` of pyradiomics 3.0.1, averaged over
    blocks of 4 × 4 pixels. The mask of the lungs was made for medcam, by a threshold of -400 HU and
    morphology, and contains the mask of the tumour.

    Example:
        >>> slices = load_lung_slices()
        >>> tuple(slices.images.shape), int(slices.nodules.flatten(1).any(1).sum())
        ((8, 1, 128, 128), 4)
        >>> slices.spacing
        (2.5078124, 2.5078124)
    """
    with np.load(data_path("lungs.npz"), allow_pickle=False) as stored:
        images, lungs, nodules = stored["images"], stored["lungs"], stored["nodules"]
        height, width = stored["spacing"].tolist()
    return LungSlices(
        images=torch.from_numpy(images).float() / 255,
        lungs=torch.from_numpy(lungs),
        nodules=torch.from_numpy(nodules),
        spacing=(height, width),
    )


def load_nuclei_segmenter() -> NucleiUNet:
    """Load the trained nuclei segmenter, in eval mode on the CPU.

    Example:
        >>> nuclei = load_nuclei()
        >>> predicted = load_nuclei_segmenter()(nuclei.images) > 0
        >>> overlap = (predicted & nuclei.masks).sum()
        >>> dice = 2 * overlap / (predicted.sum() + nuclei.masks.sum())
        >>> bool(dice > 0.92)
        True
    """
    return load_weights(NucleiUNet(), "nuclei_segmenter.pt")


def load_nuclei() -> Nuclei:
    """Load eight tiles of a micrograph, with instance labels of all nuclei.

    The tiles are two rows of four: the lower half of a micrograph. The segmenter was trained on
    the upper half.

    Example:
        >>> nuclei = load_nuclei()
        >>> tuple(nuclei.images.shape), len(nuclei.instances.unique()) - 1
        ((8, 1, 128, 128), 67)
    """
    with np.load(data_path("nuclei.npz"), allow_pickle=False) as stored:
        images, instances = stored["images"], stored["instances"]
    labels = torch.from_numpy(instances).long()
    return Nuclei(torch.from_numpy(images).float() / _NUCLEI_GREY, labels > 0, labels)


def _to_network_grid(volume: Tensor) -> Tensor:
    grid = (_NETWORK_SIDE,) * 3
    return F.interpolate(volume[None, None], grid, mode="trilinear", align_corners=False)


def _network_affine(
    affine: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    # align_corners=False aligns the outer faces of the two grids, so the centre of voxel i of the
    # network's grid is at index (i + 0.5) * step - 0.5 of the stored volume.
    step = np.array(shape) / _NETWORK_SIDE
    to_stored_index = np.diag([*step, 1.0])
    to_stored_index[:3, 3] = step / 2 - 0.5
    return affine @ to_stored_index
