"""Targets for ``target=`` of `medcam.explain`, `medcam.inject` and the other entry points.

A target is any callable from the output tensor to scores ``[batch]`` or ``[batch, targets]``, or
to a boolean mask over the output. The targets built here also record which class they explain. In a
segmentation the score is the **mean** logit over a set of voxels. For detectors, `box` is the score
of one detection.
"""

from __future__ import annotations

from medcam.engine.target.boxes import BoxTarget, box
from medcam.engine.target.contrasts import contrast
from medcam.engine.target.resolution import TargetLike, resolve
from medcam.engine.target.targets import (
    ClassTarget,
    best,
    class_score,
    classes,
    region,
    region_class,
    value,
    voxel,
    where,
)
from medcam.maps import ResolvedTarget

__all__ = [
    "BoxTarget",
    "ClassTarget",
    "ResolvedTarget",
    "TargetLike",
    "best",
    "box",
    "class_score",
    "classes",
    "contrast",
    "region",
    "region_class",
    "resolve",
    "value",
    "voxel",
    "where",
]
