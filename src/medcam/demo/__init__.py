"""Packaged images, exact masks and trained networks for demos and tests; it downloads nothing.

A 3D brain segmenter with a head scan, a 2D lesion classifier with held-out head slices, a 2D lung
segmenter with CT slices of a patient it never saw, and a 2D nuclei segmenter with held-out
micrographs, a few MB in all::

    head = load_head()
    logits = load_brain_segmenter()(head.image)

    slices = load_lesion_slices()
    logits = load_lesion_classifier()(slices.images)

    chest = load_lung_slices()
    logits = load_lung_segmenter()(chest.images)

    nuclei = load_nuclei()
    logits = load_nuclei_segmenter()(nuclei.images)
"""

from .assets import (
    Head,
    LesionSlices,
    LungSlices,
    Nuclei,
    brain_mask_for_network,
    load_brain_segmenter,
    load_head,
    load_lesion_classifier,
    load_lesion_slices,
    load_lung_segmenter,
    load_lung_slices,
    load_nuclei,
    load_nuclei_segmenter,
)
from .networks import BrainUNet, LesionNet, LungUNet, NucleiUNet

__all__ = [
    "BrainUNet",
    "Head",
    "LesionNet",
    "LesionSlices",
    "LungSlices",
    "LungUNet",
    "Nuclei",
    "NucleiUNet",
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
