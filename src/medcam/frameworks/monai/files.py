"""Names and affines of the files that maps of MONAI's images are saved as."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import to_affine_nd
from torch import Tensor

from medcam.files import geometry, safe_name


class MapNames:
    """File names for maps, one for each source image: equal file names are told apart by a hash.

    Example:
        >>> names = MapNames()
        >>> names.name_for("a/case_1/image.nii.gz", "1_0")
        'image'
        >>> names.name_for("a/case_1/image.nii.gz", "2_0")
        'image'
        >>> names.name_for("a/case_2/image.nii.gz", "3_0")[:6]
        'image_'
    """

    def __init__(self) -> None:
        self._sources: dict[str, str] = {}

    def name_for(self, source: object, default: str) -> str:
        """Return the name for a source.

        Args:
            source: The path of the image's file, from its meta data.
            default: The name for an image without a path.
        """
        if not isinstance(source, str) or not source:
            return safe_name(default)
        name = Path(source).name
        for ending in (".gz", *Path(name.removesuffix(".gz")).suffixes[-1:]):
            name = name.removesuffix(ending)
        name = safe_name(name)
        # Many data sets have one folder for each case, with equal file names in all of them.
        if self._sources.setdefault(name, source) != source:
            name = f"{name}_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
        return name


def affine_of(image: Tensor) -> object:
    """Return the 4x4 affine of a MetaTensor in 2D or 3D, to RAS mm; None for a plain tensor."""
    if not isinstance(image, MetaTensor):
        return None
    return to_affine_nd(3, np.asarray(geometry.affine_of(image)))
