"""Real scans, exact masks and really trained networks, a few MB in all, for demos and tests.

A 3D brain segmenter with a head scan, and a 2D lesion classifier with held-out slices::

    head = load_head()
    logits = load_brain_segmenter()(head.image)

    slices = load_lesion_slices()
    logits = load_lesion_classifier()(slices.images)
"""

from .assets import (
    Head,
    LesionSlices,
    brain_mask_for_network,
    load_brain_segmenter,
    load_head,
    load_lesion_classifier,
    load_lesion_slices,
)
from .networks import BrainUNet, LesionNet

__all__ = [
    "BrainUNet",
    "Head",
    "LesionNet",
    "LesionSlices",
    "brain_mask_for_network",
    "load_brain_segmenter",
    "load_head",
    "load_lesion_classifier",
    "load_lesion_slices",
]
