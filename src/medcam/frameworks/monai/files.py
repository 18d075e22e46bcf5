"""Names and affines of the files that maps of MONAI's images are saved as."""

from __future__ import annotations

import hashlib
from pathlib import Path

from monai.data.meta_tensor import MetaTensor
from monai.data.utils import to_affine_nd
from torch import Tensor

from medcam.files import safe_name


class MapNames:
    """Names for maps: one for each source, and another for each other source.

    >>> names = MapNames()
    >>> names.of("a/case_1/image.nii.gz", "1_0")
    'image'
    >>> names.of("a/case_1/image.nii.gz", "2_0")
    'image'
    >>> names.of("a/case_2/image.nii.gz", "3_0")[:6]
    'image_'
    """

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def of(self, source: object, otherwise: str) -> str:
        """The name for a source.

        Args:
            source: The path of the image's file; None if it has none.
            otherwise: The name without one.
        """
        if not isinstance(source, str) or not source:
            return safe_name(otherwise)
        name = Path(source).name
        for ending in (".gz", *Path(name.removesuffix(".gz")).suffixes[-1:]):
            name = name.removesuffix(ending)
        name = safe_name(name)
        # Data sets often name their files alike, in one folder for each case.
        if self._taken.setdefault(name, source) != source:
            name = f"{name}_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
        return name


def affine_of(item: Tensor) -> object:
    """The 4x4 affine of a MetaTensor in 2D or 3D; None for a tensor without one."""
    if not isinstance(item, MetaTensor):
        return None
    return to_affine_nd(3, item.affine.cpu().numpy())
