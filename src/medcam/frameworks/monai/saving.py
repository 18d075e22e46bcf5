"""A transform that saves maps: volumes as MONAI saves images, pictures as pictures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.folder_layout import FolderLayout
from monai.data.meta_tensor import MetaTensor
from monai.transforms.io.dictionary import SaveImaged
from monai.transforms.transform import MapTransform
from numpy.typing import NDArray
from torch import Tensor

from medcam.errors import MedcamError
from medcam.files import read_image, save_nifti, save_png
from medcam.files.formats.pictures import save_tiff
from medcam.frameworks.monai.files import affine_of
from medcam.views.overlays import overlay

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".dcm", ".img", ".hdr")


class SaveAttentionMapd(MapTransform):
    """A dictionary transform that saves maps ``[targets, *space]`` in float32.

    Files are named as ``SaveImaged`` names them, ``{output_dir}/{case}/{case}_{postfix}``. It saves
    3D maps, as ``.nii.gz``. Maps of a picture are saved as ``.png``, in colour over the picture,
    and as ``.tif``, the raw values. Both have the picture's rows and columns. Other 2D maps are
    saved as ``.nii.gz`` with their affine. Several 2D maps of one image are numbered.

    Args:
        keys: The keys of the maps.
        output_dir: The folder.
        output_postfix: The last part of the files' names, after an underscore.
        allow_missing_keys: Whether a key may be missing.

    Example:
        >>> import tempfile
        >>> values = MetaTensor(torch.rand(1, 6, 4), meta={"filename_or_obj": "case.png"})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = SaveAttentionMapd("map", folder)({"map": values})
        ...     sorted(path.name for path in Path(folder, "case").iterdir())
        ['case_attention.png', 'case_attention.tif']
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike[str] = "./",
        output_postfix: str = "attention",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = output_dir
        self.output_postfix = output_postfix
        self._count = 0
        self._savers = {
            key: SaveImaged(
                key, output_dir=Path(output_dir), output_postfix=output_postfix, resample=False
            )
            for key in self.keys
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save the maps of one image, and return the dictionary."""
        result = dict(data)
        for key in self.key_iterator(result):
            if result[key].ndim == 3:
                self._save_2d(result[key])
            else:
                result = dict(self._savers[key](result))
        return result

    def _save_2d(self, maps: Tensor) -> None:
        """Save the 2D maps ``[targets, *space]`` of one image."""
        meta = maps.meta if isinstance(maps, MetaTensor) else {}
        source = str(meta.get("filename_or_obj") or self._count)
        self._count += 1
        values = torch.as_tensor(maps).detach().cpu().float().numpy()
        for target, single in enumerate(values):
            number = f"_{target}" if len(values) > 1 else ""
            layout = FolderLayout(
                str(self.output_dir), f"{self.output_postfix}{number}", parent=True, makedirs=True
            )
            path = str(layout.filename(source, meta.get("patch_index")))
            if _is_picture(source, maps):
                _save_picture(path, single, source)
            else:
                _save_slice(path, single, affine_of(maps))


def _is_picture(source: str, maps: Tensor) -> bool:
    """Return whether a 2D map is that of a picture: of such a file, or without a place."""
    name = source.lower()
    if name.endswith((*_PICTURES, *_VOLUMES)):
        return name.endswith(_PICTURES)
    affine = affine_of(maps)
    return affine is None or bool(np.allclose(np.asarray(affine), np.eye(4)))


def _save_picture(path: str, values: NDArray[np.float32], source: str) -> None:
    """Save a map in colour over its picture, and its raw values."""
    picture = None
    if source.lower().endswith(_PICTURES):
        with contextlib.suppress(MedcamError):  # the file has gone, or only MONAI can read it
            picture = read_image(source).array
        # MONAI reads the columns of a picture as its first axis, unless its reader is told not to
        shape = None if picture is None else picture.shape[1:]
        if shape != values.shape or shape == values.T.shape:
            values = np.ascontiguousarray(values.T)
        if shape != values.shape:
            picture = None
    save_png(Path(f"{path}.png"), overlay(values, picture))
    save_tiff(Path(f"{path}.tif"), values)


def _save_slice(path: str, values: NDArray[np.float32], affine: object) -> None:
    """Save a map that has a place as a NIfTI image of two axes."""
    import nibabel

    voxels = np.broadcast_to(np.int16(0), values.shape)  # only the shape is used
    save_nifti(Path(f"{path}.nii.gz"), values, nibabel.Nifti1Image(voxels, np.asarray(affine)))


SaveAttentionMapD = SaveAttentionMapDict = SaveAttentionMapd
