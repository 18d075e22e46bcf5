"""What a trained folder predicted of a case: the volume of each label on the image's grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medcam.explanation.predicted import PredictedClass, Prediction, voxel_size
from medcam.files.formats.nifti import voxel_sizes
from medcam.frameworks.nnunet.trained_model import TrainedModel


def prediction_of_case(
    model: TrainedModel, segmentation: NDArray[np.integer], affine: NDArray[np.float64] | None
) -> Prediction:
    """Return the labels of a segmentation with their voxels, by the names of dataset.json.

    A region is the union of its labels, so regions may overlap.

    Args:
        model: The trained model.
        segmentation: The segmentation, ``[*space]``.
        affine: From voxel indices to mm; None: the size of the voxels is unknown.
    """
    spacing = None if affine is None else voxel_sizes(affine)
    one_voxel, unit = voxel_size(spacing, segmentation.ndim)
    classes = []
    for number, (name, value) in enumerate(model.labels.items()):
        if name == "ignore" or (model.has_regions and name == "background"):
            continue
        values = list(value) if isinstance(value, (list, tuple)) else [int(value)]
        count = int(np.isin(segmentation, values).sum())
        label = number if len(values) > 1 else int(values[0])
        size = None if one_voxel is None else count * one_voxel
        is_background = name == "background"
        classes.append(
            PredictedClass(
                label, name, count > 0, voxels=count, size=size, is_background=is_background
            )
        )
    return Prediction("segmentation", tuple(classes), unit=unit)
