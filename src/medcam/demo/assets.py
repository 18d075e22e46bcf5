"""Loads the packaged head scan, lesion slices, micrograph and the three trained networks.

Nothing is downloaded. ``medcam/demo/data/LICENSES.md`` says where each file comes from, and
``tools/make_demo_assets.py`` in the source tree makes them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import BrainUNet, LesionNet, NucleiUNet

__all__ = [
    "Head",
    "LesionSlices",
    "Nuclei",
    "brain_mask_for_network",
    "load_brain_segmenter",
    "load_head",
    "load_lesion_classifier",
    "load_lesion_slices",
    "load_nuclei",
    "load_nuclei_segmenter",
]

_NETWORK_SIDE = 128
# The grey levels at which the classifier was trained: white matter lies near 2.
_SLICE_SCALE = 4.0
# The grey level that the nuclei segmenter knows as 1, about that of most nuclei.
_NUCLEI_GREY = 64.0

_Net = TypeVar("_Net", bound=nn.Module)


@dataclass(frozen=True)
class Head:
    """A T1 head scan with its brain mask, on its own grid and on the network's.

    Attributes:
        image: What :class:`BrainUNet` takes, float32 ``[1, 1, 128, 128, 128]`` in [0, 1].
        network_affine: Voxel indices of ``image`` to mm (RAS+), ``[4, 4]``. A map of ``image``
            that is saved with it lies on the head in a viewer.
        volume: The scan as stored, float32 ``[91, 109, 91]``.
        mask: Which voxels of ``volume`` are brain, bool, of the same shape.
        affine: Voxel indices of ``volume`` to mm (RAS+), ``[4, 4]``.
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
    """Head slices that the lesion classifier never saw, every second one with a lesion.

    Attributes:
        images: What :class:`LesionNet` takes, float32 ``[N, 1, 64, 64]``, background 0. Axial, from
            the base of the skull upwards; rows run from anterior to posterior, columns from the
            patient's left to the right.
        labels: int64 ``[N]``: 0 absent, 1 present.
        masks: The exact lesions, bool ``[N, 1, 64, 64]``; empty where absent.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Nuclei:
    """Fluorescence micrographs of cell nuclei that the nuclei segmenter never saw.

    Attributes:
        images: What :class:`NucleiUNet` takes, float32 ``[N, 1, 128, 128]``, most nuclei near 1.
        masks: Which pixels are nuclei, bool ``[N, 1, 128, 128]``.
        instances: The nuclei one by one, int64 ``[N, 1, 128, 128]``: a number each, 0 is none.
            A nucleus that two tiles share has the same number in both.
    """

    images: Tensor
    masks: Tensor
    instances: Tensor


def load_head() -> Head:
    """Loads one person's head, in MNI space at 2 mm, with the brain mask of the MNI152 template.

    Example:
        >>> head = load_head()
        >>> head.volume.shape, tuple(head.image.shape)
        ((91, 109, 91), (1, 1, 128, 128, 128))
    """
    path, mask_path = _path("head.nii.gz"), _path("head_brain_mask.nii.gz")
    scan = nib.Nifti1Image.from_filename(path)
    volume: npt.NDArray[np.float32] = scan.get_fdata(dtype=np.float32)
    affine: npt.NDArray[np.float64] = scan.affine
    mask = np.asarray(nib.Nifti1Image.from_filename(mask_path).dataobj) > 0
    image = _resample(torch.from_numpy(volume)).clamp(min=0)
    return Head(
        image=image / image.max(),
        network_affine=_resampled_affine(affine, volume.shape),
        volume=volume,
        mask=mask,
        affine=affine,
        path=path,
        mask_path=mask_path,
    )


def brain_mask_for_network(head: Head) -> Tensor:
    """Puts the brain mask on the grid of ``head.image``, by the nearest voxel.

    Args:
        head: From :func:`load_head`.

    Returns:
        The mask, bool ``[1, 1, 128, 128, 128]``.

    Example:
        >>> mask = brain_mask_for_network(load_head())
        >>> f"{mask.float().mean():.2f} of the volume is brain"
        '0.26 of the volume is brain'
    """
    # 'nearest' would shift the mask by up to half a voxel against the voxel-centred image
    mask = torch.from_numpy(head.mask).float()[None, None]
    return F.interpolate(mask, (_NETWORK_SIDE,) * 3, mode="nearest-exact") > 0.5


def load_brain_segmenter() -> BrainUNet:
    """Loads the trained brain segmenter, in eval mode on the CPU.

    On the head of :func:`load_head` its Dice with the brain mask is 0.958.

    Example:
        >>> sum(weight.numel() for weight in load_brain_segmenter().parameters())
        171465
    """
    return _load_weights(BrainUNet(), "brain_segmenter.pt")


def load_lesion_classifier() -> LesionNet:
    """Loads the trained lesion classifier, in eval mode on the CPU.

    Example:
        >>> slices = load_lesion_slices()
        >>> logits = load_lesion_classifier()(slices.images)
        >>> bool((logits.argmax(1) == slices.labels).float().mean() > 0.85)
        True
    """
    return _load_weights(LesionNet(), "lesion_classifier.pt")


def load_lesion_slices() -> LesionSlices:
    """Loads the held-out slices for the lesion classifier, with labels and exact masks.

    The slices are of the head of :func:`load_head`; the classifier was trained on three others. The
    lesions are bright ellipses with soft edges, inserted at random places of the brain.

    Example:
        >>> slices = load_lesion_slices()
        >>> tuple(slices.images.shape), int(slices.labels.sum())
        ((32, 1, 64, 64), 16)
    """
    with np.load(_path("lesion_slices.npz"), allow_pickle=False) as stored:
        images, labels, masks = stored["images"], stored["labels"], stored["masks"]
    return LesionSlices(
        images=torch.from_numpy(images).float() / 255 * _SLICE_SCALE,
        labels=torch.from_numpy(labels).long(),
        masks=torch.from_numpy(masks).bool(),
    )


def load_nuclei_segmenter() -> NucleiUNet:
    """Loads the trained nuclei segmenter, in eval mode on the CPU.

    Example:
        >>> nuclei = load_nuclei()
        >>> found = load_nuclei_segmenter()(nuclei.images) > 0
        >>> dice = 2 * (found & nuclei.masks).sum() / (found.sum() + nuclei.masks.sum())
        >>> bool(dice > 0.92)
        True
    """
    return _load_weights(NucleiUNet(), "nuclei_segmenter.pt")


def load_nuclei() -> Nuclei:
    """Loads eight tiles of a micrograph with its nuclei, outlined one by one.

    They are two rows of four, the lower half of a picture whose upper half the segmenter was
    trained on.

    Example:
        >>> nuclei = load_nuclei()
        >>> tuple(nuclei.images.shape), len(nuclei.instances.unique()) - 1
        ((8, 1, 128, 128), 67)
    """
    with np.load(_path("nuclei.npz"), allow_pickle=False) as stored:
        images, instances = stored["images"], stored["instances"]
    numbered = torch.from_numpy(instances).long()
    return Nuclei(torch.from_numpy(images).float() / _NUCLEI_GREY, numbered > 0, numbered)


def _path(name: str) -> Path:
    # pip always unpacks packages, so that the path outlives the context
    with as_file(files("medcam.demo").joinpath("data", name)) as path:
        return path


def _load_weights(net: _Net, name: str) -> _Net:
    net.load_state_dict(torch.load(_path(name), map_location="cpu", weights_only=True))
    return net.eval()


def _resample(volume: Tensor) -> Tensor:
    side = (_NETWORK_SIDE,) * 3
    return F.interpolate(volume[None, None], side, mode="trilinear", align_corners=False)


def _resampled_affine(
    affine: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    # align_corners=False lays the outer faces of the two grids on each other, so that the centre of
    # new voxel i is the old index (i + 0.5) * step - 0.5.
    step = np.array(shape) / _NETWORK_SIDE
    to_old_index = np.diag([*step, 1.0])
    to_old_index[:3, 3] = step / 2 - 0.5
    return affine @ to_old_index
